"""Early fusion's only image part: one linear layer from raw patches to decoder tokens (P1 section 2)."""

from typing import Any

import torch


class PatchStem(torch.nn.Module):
    """[P, C * p * p] normalised pixels -> [P, H]. Small, hence whole on every tensor rank of the first stage."""

    def __init__(self, config: Any, patch_values: int) -> None:
        """``config`` is megatron-core's TransformerConfig; weights are drawn by its ``init_method``."""
        super().__init__()
        self.linear = torch.nn.Linear(patch_values, config.hidden_size, dtype=config.params_dtype)
        with torch.no_grad():
            config.init_method(self.linear.weight)
            self.linear.bias.zero_()

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Each patch becomes one token, in the order of ``patches``; P may be 0."""
        out: torch.Tensor = self.linear(patches.to(self.linear.weight.dtype))
        return out
