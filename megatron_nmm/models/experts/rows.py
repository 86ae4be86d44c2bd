"""Rows to their experts and back: every token meets the weights of its own modality only.

Both ways are copies by a permutation, forward and backward; torch's own gradient of a gather would be a scatter-add.
The expert of an absent modality gets one row of zeros: megatron-core's layers do not take zero rows, and an expert that
did not run would have no gradient instead of one of zero. Shapes: T rows, N text rows, T - N visual rows.
"""

from typing import Any

import torch

from megatron_nmm.models.experts.routing import Routing


def split_rows(x: torch.Tensor, routing: Routing) -> tuple[torch.Tensor, torch.Tensor]:
    """[T, ...] in sequence order -> ([N, ...] text, [T - N, ...] visual), each in sequence order and at least a row."""
    text, visual = _Split.apply(x, routing)
    return text, visual


def join_rows(text: torch.Tensor, visual: torch.Tensor, routing: Routing) -> torch.Tensor:
    """What became of the rows that ``split_rows`` parted -> [T, ...] in sequence order."""
    out: torch.Tensor = _Join.apply(text, visual, routing)
    return out


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, routing: Routing) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.routing = routing
        return _apart(x, routing)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        text, visual = grads
        return _together(text, visual, ctx.routing), None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, text: torch.Tensor, visual: torch.Tensor, routing: Routing) -> torch.Tensor:
        ctx.routing = routing
        return _together(text, visual, routing)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        return *_apart(grads[0], ctx.routing), None


def _apart(x: torch.Tensor, routing: Routing) -> tuple[torch.Tensor, torch.Tensor]:
    if routing.text == len(x):
        return x, _stand_in(x)
    text, visual = routing.order[: routing.text], routing.order[routing.text :]
    return x.index_select(0, text) if routing.text else _stand_in(x), x.index_select(0, visual)


def _together(text: torch.Tensor, visual: torch.Tensor, routing: Routing) -> torch.Tensor:
    """The inverse of ``_apart``: a row that stood in for an absent modality is left out."""
    if routing.text == len(text) == len(routing.home):
        return text
    both = torch.cat([text, visual]) if routing.text else visual
    return both.index_select(0, routing.home)


def _stand_in(x: torch.Tensor) -> torch.Tensor:
    return x.new_zeros(1, *x.shape[1:])
