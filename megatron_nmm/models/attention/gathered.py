"""Keys and values of whole rows from the ranks that share them; the way back sums every rank's gradients.

Any mask stays exact this way: each rank's queries meet all the keys they would meet on one rank. Shapes: T flat
positions, c context ranks, G key/value heads of width D.
"""

from typing import Any

import torch
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region

from megatron_nmm.parallel.context import ContextShare


def whole_sequence(x: torch.Tensor, share: ContextShare) -> torch.Tensor:
    """[T / c, ...] at this rank's positions -> [T, ...] in flat order, by one all-gather (backward: reduce-scatter)."""
    if share.order is None or share.place is None:
        return x
    gathered = gather_from_sequence_parallel_region(x, tensor_parallel_output_grad=True, group=share.group)
    out: torch.Tensor = _InFlatOrder.apply(gathered, share.place, share.order)
    return out


def whole_keys(
    key_TGD: torch.Tensor, value_TGD: torch.Tensor, share: ContextShare
) -> tuple[torch.Tensor, torch.Tensor]:
    """[T / c, G, D] each -> [T, G, D] each."""
    if share.order is None:
        return key_TGD, value_TGD
    key, value = whole_sequence(torch.cat([key_TGD, value_TGD], dim=1), share).chunk(2, dim=1)
    return key, value


class _InFlatOrder(torch.autograd.Function):
    """A permutation: the way back is a gather too, where torch's own gradient is a far slower scatter-add."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, place: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        ctx.order = order
        return x.index_select(0, place)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return grads[0].index_select(0, ctx.order), None, None
