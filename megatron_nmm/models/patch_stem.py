"""One linear layer over raw patches: all of early fusion (P1 section 2), or the first layer of a vision encoder."""

from typing import Any

import torch


class PatchStem(torch.nn.Module):
    """[P, C * p * p] normalised pixels -> [P, H]. Small, hence whole on every tensor rank of the first stage."""

    def __init__(self, config: Any, patch_values: int) -> None:
        """``config`` is the TransformerConfig of what follows; its ``init_method`` draws the weights."""
        super().__init__()
        self.linear = torch.nn.Linear(patch_values, config.hidden_size, dtype=config.params_dtype)
        with torch.no_grad():
            config.init_method(self.linear.weight)
            self.linear.bias.zero_()

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Each patch becomes one row, in the order of ``patches``; P may be 0."""
        out: torch.Tensor = self.linear(patches.to(self.linear.weight.dtype))
        return out
