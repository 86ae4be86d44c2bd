"""LayerScale: a learnt factor per channel on every branch before it joins the residual (Touvron et al. 2021)."""

from collections.abc import Callable
from typing import Any, cast

import torch

Branch = tuple[torch.Tensor, torch.Tensor | None]


class LayerScale(torch.nn.Module):
    """residual + weight * (branch + bias), in the place of megatron-core's bias-dropout-add; there is no dropout."""

    def __init__(self, config: Any, start: float) -> None:
        """``config`` is megatron-core's TransformerConfig; ``start`` is every factor's first value (NaViL 0.1)."""
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((config.hidden_size,), start, dtype=config.params_dtype))
        # As for norms: under sequence parallelism each tensor rank sees its own rows.
        cast(Any, self.weight).sequence_parallel = config.sequence_parallel

    def forward(self, training: bool, fused: bool) -> Callable[[Branch, torch.Tensor, float], torch.Tensor]:
        """What megatron-core's layer calls: the function that joins branch [.., w] and residual of the same shape."""
        return self._join

    def _join(self, branch: Branch, residual: torch.Tensor, dropout: float) -> torch.Tensor:
        x, bias = branch
        return torch.addcmul(residual, x if bias is None else x + bias, self.weight)
