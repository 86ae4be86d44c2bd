"""Embeddings of the tokens that lay out images, in a table of their own: it trains while the vocabulary's is frozen.

NaViL's released code overwrites the rows of twelve special tokens in the same way.
"""

from typing import Any

import torch

from megatron_nmm.data.rule import SPECIAL_TABLE


class SpecialEmbedding(torch.nn.Module):
    """[K] rows -> [K, H]. Small, hence whole on every tensor rank of the first stage."""

    def __init__(self, config: Any) -> None:
        """``config`` is megatron-core's TransformerConfig; weights are drawn by its ``init_method``."""
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(SPECIAL_TABLE, config.hidden_size, dtype=config.params_dtype))
        with torch.no_grad():
            config.init_method(self.weight)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """K may be 0: the table's gradient is zero then, not missing."""
        return torch.nn.functional.embedding(rows, self.weight)
