"""Root-mean-square normalisation that also runs under sequence parallelism (megatron-core's torch norm refuses it)."""

from typing import Any, cast

import torch
from torch.nn.functional import rms_norm


class RMSNorm(torch.nn.Module):
    """x / rms(x) * weight over the last dimension, statistics in fp32 (Zhang and Sennrich 2019)."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5) -> None:
        """``config`` is megatron-core's TransformerConfig; ``hidden_size`` values are normalised together."""
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        # Under sequence parallelism each tensor rank sees its own tokens: megatron-core sums the gradients of
        # parameters that carry this mark over the tensor group.
        cast(Any, self.weight).sequence_parallel = config.sequence_parallel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any leading shape; same shape and dtype out."""
        return rms_norm(x, (x.shape[-1],), self.weight, self.eps)
