"""Packed attention for the CPU: documents of similar length are computed together, each on its own square.

Cost grows with the sum of squares of document lengths, not with T^2. Documents are sorted into buckets by length
(rounded up to ``GRAIN``, so that at most GRAIN - 1 positions of a document are wasted). All tokens are brought into
bucket order by one row gather, every bucket is one call of blockwise.attention over [documents, heads, length, width],
and one gather brings the results back. Text-only documents are causal squares; documents with bidirectional image
blocks carry a boolean mask of length x length each; bidirectional documents only hide their padding.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from megatron_nmm.models.attention.blockwise import QueryBlock, attention, full_blocks, query_blocks
from megatron_nmm.models.attention.layout import Ints, PackedLayout

GRAIN = 8
"""Document lengths are rounded up to a multiple of this to form buckets."""


@dataclass(frozen=True)
class Order:
    """From T flat positions to R >= T bucket slots and back; padding slots repeat a position of their document."""

    slots: torch.Tensor
    """[R] flat position each slot reads."""
    home: torch.Tensor
    """[T] slot that holds each flat position."""
    padding: torch.Tensor
    """[R - T] slots that hold no token of their own."""


@dataclass(frozen=True)
class Bucket:
    """``documents`` documents of at most ``length`` tokens, side by side."""

    documents: int
    length: int
    blocks: tuple[QueryBlock, ...]
    """How its squares are cut for the kernel."""


@dataclass(frozen=True)
class Buckets:
    """What ``attend`` needs to know of a microbatch."""

    order: Order | None
    """None when the tokens already lie in bucket order."""
    buckets: tuple[Bucket, ...]


def prepare(layout: PackedLayout, device: torch.device) -> Buckets:
    """Sort the documents of ``layout`` into buckets; done once a microbatch, shared by every layer."""
    has_block = np.zeros(len(layout.document_lengths), dtype=bool)
    if len(layout.blocks):
        has_block[np.searchsorted(layout.document_starts, layout.blocks[:, 0], side="right") - 1] = True
    count, length = len(layout.document_lengths), int(layout.document_lengths[0])
    if (layout.document_lengths == length).all() and not has_block.any():
        whole = np.ones((1, length), dtype=bool)
        return Buckets(None, (Bucket(count, length, _blocks(layout, None, whole, length, device)),))
    lengths = rounded(layout.document_lengths)
    block_of = layout.block_of()
    buckets, slots, real = [], [], []
    for length, masked in sorted(set(zip(lengths.tolist(), has_block.tolist(), strict=True))):
        chosen = np.flatnonzero((lengths == length) & (has_block == masked))
        index, inside = places(layout.document_starts[chosen], layout.document_lengths[chosen], length)
        mask = _mask(block_of, index, inside) if masked else None
        buckets.append(Bucket(len(chosen), length, _blocks(layout, mask, inside, length, device)))
        slots.append(index.reshape(-1))
        real.append(inside.reshape(-1))
    return Buckets(order_of(np.concatenate(slots), np.concatenate(real), device), tuple(buckets))


def rounded(lengths: Ints) -> Ints:
    """Lengths up to the next multiple of GRAIN."""
    return -(-lengths // GRAIN) * GRAIN


def places(first: Ints, count: Ints, length: int) -> tuple[Ints, np.ndarray]:
    """[n, L] the ``count`` places from ``first`` on, and which of them are there; the others repeat the first."""
    offset = np.arange(length)
    inside = offset[None, :] < count[:, None]
    return first[:, None] + np.where(inside, offset[None, :], 0), inside


def _blocks(
    layout: PackedLayout, mask: torch.Tensor | None, inside: np.ndarray, length: int, device: torch.device
) -> tuple[QueryBlock, ...]:
    """How the kernel cuts a bucket; ``inside`` [n, L] marks tokens, ``mask`` is that of image blocks."""
    if layout.causal:
        return query_blocks(length, mask, device)
    return full_blocks(length, torch.from_numpy(inside), device)


def _mask(block_of: Ints, index: Ints, inside: np.ndarray) -> torch.Tensor:
    """[n, 1, L, L]. Padding stands after the tokens of its document: causality alone hides it from all of them."""
    owner = torch.from_numpy(np.where(inside, block_of[index], -1))
    same_block = (owner[:, :, None] == owner[:, None, :]) & (owner[:, :, None] >= 0)
    length = index.shape[1]
    return (torch.ones(length, length, dtype=torch.bool).tril() | same_block)[:, None]


def order_of(slots: Ints, real: np.ndarray, device: torch.device) -> Order:
    """The way to bucket slots and back: ``slots`` [R] the places they read, ``real`` [R] False on padding."""
    home = np.empty(int(real.sum()), dtype=np.int64)
    home[slots[real]] = np.flatnonzero(real)
    order = (torch.from_numpy(index) for index in (slots, home, np.flatnonzero(~real)))
    return Order(*(index.to(device, non_blocking=True) for index in order))


def attend(
    query_THD: torch.Tensor, key_TGD: torch.Tensor, value_TGD: torch.Tensor, plan: Buckets, scale: float
) -> torch.Tensor:
    """Attention of T packed tokens: H query heads over G key/value heads of width D; returns [T, H * D]."""
    if plan.order is None:
        return _bucket_attention(query_THD, key_TGD, value_TGD, plan.buckets[0], scale)
    parts, first = [], 0
    query, key, value = (ToSlots.apply(t, plan.order) for t in (query_THD, key_TGD, value_TGD))
    for bucket in plan.buckets:
        rows = slice(first, first + bucket.documents * bucket.length)
        parts.append(_bucket_attention(query[rows], key[rows], value[rows], bucket, scale))
        first = rows.stop
    out: torch.Tensor = FromSlots.apply(torch.cat(parts), plan.order)
    return out


def _bucket_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bucket: Bucket, scale: float
) -> torch.Tensor:
    """[n * L, heads, D] each; returns [n * L, H * D]."""
    q, k, v = (t.unflatten(0, (bucket.documents, bucket.length)).transpose(1, 2) for t in (query, key, value))
    out = attention(q, k, v, bucket.blocks, scale)
    return out.transpose(1, 2).reshape(bucket.documents * bucket.length, -1)


class ToSlots(torch.autograd.Function):
    """Gather rows into bucket order. Padding's gradient is zero, so the way back is a gather too, not a scatter-add."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, order: Order) -> torch.Tensor:
        ctx.order = order
        return x.index_select(0, order.slots)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0].index_select(0, ctx.order.home), None


class FromSlots(torch.autograd.Function):
    """Gather rows back into flat order; padding slots receive no gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, order: Order) -> torch.Tensor:
        ctx.order = order
        return x.index_select(0, order.home)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0].index_select(0, ctx.order.slots).index_fill_(0, ctx.order.padding, 0), None
