"""Rows to their experts and back: every token meets the weights of its own modality only.

Both ways are copies by a permutation, forward and backward; torch's own gradient of a gather would be a scatter-add.
Rows are filled up with zeros to what products in 8 bits want. The expert of an absent modality gets a row at least:
megatron-core's layers do not take zero rows, and an expert that did not run would have no gradient instead of one of
zero. Shapes: T rows, N text rows, T - N visual rows.
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
        return _filled(x, routing.multiple), _filled(x[:0], routing.multiple)
    text, visual = (x.index_select(0, rows) for rows in (routing.order[: routing.text], routing.order[routing.text :]))
    return _filled(text, routing.multiple), _filled(visual, routing.multiple)


def _together(text: torch.Tensor, visual: torch.Tensor, routing: Routing) -> torch.Tensor:
    """The inverse of ``_apart``: rows of zeros are left out."""
    rows = len(routing.home)
    text, visual = text[: routing.text], visual[: rows - routing.text]
    if routing.text == rows:
        return text
    both = torch.cat([text, visual]) if routing.text else visual
    return both.index_select(0, routing.home)


def _filled(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """``x`` with rows of zeros behind it: at least a row, and a multiple of ``multiple``."""
    missing = -len(x) % multiple if len(x) else multiple
    return torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing else x
