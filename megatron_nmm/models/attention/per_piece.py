"""Packed attention for the CPU where a rank holds part of the queries: rectangles in place of squares.

A piece is a run of this rank's queries within one document; it meets the keys from the document's start to its own end,
or to the end of the image block that its end cuts. Pieces of similar size are computed together, as documents are in
per_document.py. Shapes: Q queries of this rank, T keys, n pieces of a bucket, L slots for the queries or keys of each.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from megatron_nmm.models.attention.blockwise import QueryBlock, attention, query_blocks
from megatron_nmm.models.attention.layout import Ints, PackedLayout
from megatron_nmm.models.attention.per_document import FromSlots, Order, ToSlots, order_of, places, rounded


@dataclass(frozen=True)
class KeyOrder:
    """From T keys to R slots; a key has a slot in every piece that meets it."""

    slots: torch.Tensor
    """[R] flat position each slot reads."""
    uses: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    """(flat positions, slots): the first use of every key that has one, then the second, and so on."""


@dataclass(frozen=True)
class Bucket:
    """``pieces`` pieces of at most ``queries`` x ``keys``, side by side."""

    pieces: int
    queries: int
    keys: int
    blocks: tuple[QueryBlock, ...]


@dataclass(frozen=True)
class PieceBuckets:
    """What ``attend`` needs to know of a microbatch."""

    queries: Order
    keys: KeyOrder
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True)
class Pieces:
    """[n] each."""

    place: Ints
    """Place of the first query among this rank's."""
    position: Ints
    """Its flat position."""
    queries: Ints
    start: Ints
    """First flat position of the document."""
    keys: Ints
    """Keys from ``start`` on."""
    square: np.ndarray
    """Whether the piece is causal attention from a document's start, with no block."""

    def __getitem__(self, chosen: Ints) -> "Pieces":
        return Pieces(*(values[chosen] for values in vars(self).values()))


def pieces(layout: PackedLayout, queries: Ints) -> Pieces:
    """Cut this rank's ``queries`` (flat positions, ascending) at documents' ends and where they leave positions out."""
    document, block = layout.document_of()[queries], layout.block_of()
    begins = np.ones(len(queries), dtype=bool)
    begins[1:] = (np.diff(queries) != 1) | (np.diff(document) != 0)
    place = np.flatnonzero(begins)
    count = np.diff(np.append(place, len(queries)))
    position, start = queries[place], layout.document_starts[document[place]]
    end = position + count
    last = block[end - 1]
    if len(layout.blocks):
        end = np.where(last >= 0, np.maximum(end, layout.blocks[last, 1]), end)
    in_block = np.add.reduceat(block[queries] >= 0, place) > 0
    return Pieces(place, position, count, start, end - start, (position == start) & ~in_block)


def prepare(layout: PackedLayout, device: torch.device) -> PieceBuckets:
    """Sort the pieces of ``layout.queries`` into buckets; done once a microbatch, shared by every layer."""
    assert layout.queries is not None and layout.causal, "only a causal decoder's rows are cut"
    cut, block_of = pieces(layout, layout.queries), layout.block_of()
    sizes = np.stack([rounded(cut.queries), rounded(cut.keys), cut.square], axis=1)
    buckets: list[Bucket] = []
    slots: tuple[list[np.ndarray], ...] = ([], [], [], [])
    for queries, keys, square in np.unique(sizes, axis=0).tolist():
        chosen = cut[np.flatnonzero((sizes == (queries, keys, square)).all(1))]
        at, asked = places(chosen.place, chosen.queries, queries)
        met, inside = places(chosen.start, chosen.keys, keys)
        visible = None if square else _visible(layout.queries[at], met, inside, block_of)
        buckets.append(Bucket(len(chosen.place), queries, keys, query_blocks(queries, visible, device)))
        for parts, values in zip(slots, (at, asked, met, inside), strict=True):
            parts.append(values.reshape(-1))
    at, asked, met, inside = (np.concatenate(parts) for parts in slots)
    return PieceBuckets(order_of(at, asked, device), _key_order(met, inside, device), tuple(buckets))


def _visible(query: Ints, key: Ints, inside: np.ndarray, block_of: Ints) -> torch.Tensor:
    """[n, 1, L, L] the rule of layout.py for flat positions ``query`` and ``key``, keys' padding hidden."""
    asks, meets = (torch.from_numpy(block_of[positions]) for positions in (query, key))
    same_block = (asks[:, :, None] == meets[:, None, :]) & (asks[:, :, None] >= 0)
    earlier = torch.from_numpy(key)[:, None, :] <= torch.from_numpy(query)[:, :, None]
    return ((earlier | same_block) & torch.from_numpy(inside)[:, None, :])[:, None]


def _key_order(slots: Ints, real: np.ndarray, device: torch.device) -> KeyOrder:
    used = np.flatnonzero(real)
    used = used[np.argsort(slots[used], kind="stable")]
    position = slots[used]
    first = np.concatenate([[True], np.diff(position) != 0])
    turn = np.arange(len(used)) - np.flatnonzero(first)[np.cumsum(first) - 1]
    uses = [(position[turn == use], used[turn == use]) for use in range(int(turn.max()) + 1)]

    def on_device(index: Ints) -> torch.Tensor:
        return torch.from_numpy(index).to(device, non_blocking=True)

    return KeyOrder(on_device(slots), tuple((on_device(p), on_device(s)) for p, s in uses))


def attend(
    query_QHD: torch.Tensor, key_TGD: torch.Tensor, value_TGD: torch.Tensor, plan: PieceBuckets, scale: float
) -> torch.Tensor:
    """Attention of this rank's queries: H query heads over G key/value heads of width D; returns [Q, H * D]."""
    query = ToSlots.apply(query_QHD, plan.queries)
    key, value = (_KeysToSlots.apply(t, plan.keys) for t in (key_TGD, value_TGD))
    parts: list[torch.Tensor] = []
    first, first_key = 0, 0
    for bucket in plan.buckets:
        rows = slice(first, first + bucket.pieces * bucket.queries)
        keys = slice(first_key, first_key + bucket.pieces * bucket.keys)
        q, k, v = (t.unflatten(0, (bucket.pieces, -1)).transpose(1, 2) for t in (query[rows], key[keys], value[keys]))
        of_bucket = attention(q, k, v, bucket.blocks, scale)
        parts.append(of_bucket.transpose(1, 2).reshape(rows.stop - rows.start, -1))
        first, first_key = rows.stop, keys.stop
    out: torch.Tensor = FromSlots.apply(torch.cat(parts), plan.queries)
    return out


class _KeysToSlots(torch.autograd.Function):
    """Gather keys into bucket order. Hidden slots have no gradient, and a key takes those of all its slots."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, order: KeyOrder) -> torch.Tensor:
        ctx.order, ctx.keys = order, len(x)
        return x.index_select(0, order.slots)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        grad = grads[0].new_zeros(ctx.keys, *grads[0].shape[1:])
        for use, (positions, slots) in enumerate(ctx.order.uses):
            added = grads[0].index_select(0, slots)
            grad.index_copy_(0, positions, added + grad.index_select(0, positions) if use else added)
        return grad, None
