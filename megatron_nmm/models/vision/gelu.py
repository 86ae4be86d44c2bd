"""GELU with the exact error function, as a module that megatron-core's MLP takes."""

from typing import Any

import torch


class Gelu(torch.nn.Module):
    """[..., F] -> [..., F]; holds no parameters."""

    def __init__(self, config: Any) -> None:
        """``config`` is megatron-core's TransformerConfig; it is not needed."""
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x * Phi(x)."""
        return torch.nn.functional.gelu(x)
