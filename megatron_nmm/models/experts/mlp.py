"""A feed-forward layer of two experts, one for text and one for image tokens (NaViL section 3, P1's modality-aware
baseline)."""

from typing import Any

import torch
from megatron.core.transformer.mlp import MLP

from megatron_nmm.models.experts.linear import enter_tensor_region, leave_tensor_region
from megatron_nmm.models.experts.rows import join_rows, split_rows
from megatron_nmm.models.planned import Planned


class ModalityMLP(Planned, MLP):
    """megatron-core's MLP for text rows, and in ``visual`` a second one for visual rows.

    Its linear layers must be those of models/experts/linear.py.
    """

    def __init__(self, config: Any, submodules: Any, *arguments: Any, **settings: Any) -> None:
        """As megatron-core's MLP, twice."""
        super().__init__(config, submodules, *arguments, **settings)
        self.visual = MLP(config, submodules, *arguments, **settings)

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        """[T (/ t), 1, H] -> the same shape, and no bias."""
        rows = enter_tensor_region(hidden_states, self.config, self.tp_group)
        text, visual = split_rows(rows, self.routing)
        joined = join_rows(super().forward(text)[0], self.visual(visual)[0], self.routing)
        return leave_tensor_region(joined, self.config, self.tp_group), None
