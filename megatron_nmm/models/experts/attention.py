"""Self-attention whose projections and q/k-norms are two experts under one joint softmax (NaViL section 3).

Text and visual rows are projected apart, attend together in sequence order, and are projected back apart.
"""

from dataclasses import replace
from typing import Any, cast

import torch
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.identity_op import IdentityOp

from megatron_nmm.models.experts.linear import LocalRowParallelLinear, enter_tensor_region, leave_tensor_region
from megatron_nmm.models.experts.rows import join_rows, split_rows
from megatron_nmm.models.planned import Planned


class ProjectionByModality(Planned):
    """Makes of a row-parallel layer that of text rows, which sends visual rows through its twin's; one reduction for
    both. The layer leaves communication to this class.

    megatron-core calls the projection inside ``Attention.forward``, hence the routing happens here and not around it.
    """

    config: Any

    def pair_with(self, visual: Any, group: Any) -> None:
        """Send visual rows through ``visual``, which stays a module of its owner, and add both up over ``group``."""
        # A tuple registers nothing.
        self._visual, self._group = (visual,), group

    def forward(self, input_: torch.Tensor) -> tuple[torch.Tensor, None]:
        """[T, 1, heads * D / t] -> [T (/ t), 1, H], and no bias."""
        text, visual = split_rows(input_, self.routing)
        own: Any = super()
        joined = join_rows(own.forward(text)[0], self._visual[0](visual)[0], self.routing)
        return leave_tensor_region(joined, self.config, self._group), None


class ModalityProjection(ProjectionByModality, LocalRowParallelLinear):
    """On megatron-core's own layer."""


class ModalitySelfAttention(Planned, SelfAttention):
    """megatron-core's SelfAttention for text rows, and in ``visual`` a second one for visual rows.

    Only the projections and norms of ``visual`` run: rows of both meet in this module's core attention. The linear
    layers in ``submodules`` must be those of models/experts/linear.py.
    """

    def __init__(self, config: Any, submodules: Any, *arguments: Any, projection: Any, **settings: Any) -> None:
        """As megatron-core's SelfAttention, twice; ``projection`` builds a ProjectionByModality."""
        super().__init__(config, replace(submodules, linear_proj=projection), *arguments, **settings)
        self.visual = SelfAttention(config, replace(submodules, core_attention=IdentityOp), *arguments, **settings)
        cast(ProjectionByModality, self.linear_proj).pair_with(self.visual.linear_proj, self.tp_group)

    def get_query_key_value_tensors(
        self, hidden_states: torch.Tensor, *arguments: Any, **settings: Any
    ) -> tuple[torch.Tensor, ...]:
        """[T (/ t), 1, H] -> queries [T, 1, heads / t, D], keys and values [T, 1, groups / t, D] in sequence order."""
        rows = enter_tensor_region(hidden_states, self.config, self.tp_group)
        text, visual = split_rows(rows, self.routing)
        of_text = super().get_query_key_value_tensors(text, *arguments, **settings)
        of_visual = self.visual.get_query_key_value_tensors(visual, *arguments, **settings)
        return tuple(join_rows(a, b, self.routing) for a, b in zip(of_text, of_visual, strict=True))
