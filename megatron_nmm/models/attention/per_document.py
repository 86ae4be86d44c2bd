"""Packed attention for the CPU: documents of similar length are computed together, each on its own square.

Cost grows with the sum of squares of document lengths, not with T^2. Documents are sorted into buckets by length
(rounded up to ``GRAIN``, so that at most GRAIN - 1 positions of a document are wasted) and every bucket is one call of
scaled_dot_product_attention over [documents, heads, length, head width]. Text-only documents need no mask but the
causal flag; documents with bidirectional image blocks carry a boolean mask of length x length each.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from megatron_nmm.models.attention.layout import PackedLayout

GRAIN = 8
"""Document lengths are rounded up to a multiple of this to form buckets."""


@dataclass(frozen=True)
class Bucket:
    """n documents of at most L tokens."""

    index: torch.Tensor | None
    """[n * L] flat positions, padding repeats a position of the document; None when the bucket is all of T in order."""
    source: torch.Tensor | None
    """[tokens] places in the [n * L] result that hold real tokens; None when every place does."""
    target: torch.Tensor | None
    """[tokens] flat positions those places go to."""
    documents: int
    length: int
    mask: torch.Tensor | None
    """[n, 1, L, L] bool, None = causal."""


def prepare(layout: PackedLayout, device: torch.device) -> tuple[Bucket, ...]:
    """Sort the documents of ``layout`` into buckets; done once a microbatch, shared by every layer."""
    has_block = np.zeros(len(layout.document_lengths), dtype=bool)
    if len(layout.blocks):
        has_block[np.searchsorted(layout.document_starts, layout.blocks[:, 0], side="right") - 1] = True
    rounded = -(-layout.document_lengths // GRAIN) * GRAIN
    uniform = (layout.document_lengths == layout.document_lengths[0]).all()
    if uniform and not has_block.any():
        count, length = len(layout.document_lengths), int(layout.document_lengths[0])
        return (Bucket(None, None, None, count, length, None),)
    block_of = layout.block_of()
    buckets = []
    for length, masked in sorted(set(zip(rounded.tolist(), has_block.tolist(), strict=True))):
        chosen = np.flatnonzero((rounded == length) & (has_block == masked))
        buckets.append(_bucket(layout, block_of, chosen, length, masked))
    return tuple(buckets)


def _bucket(layout: PackedLayout, block_of: np.ndarray, chosen: np.ndarray, length: int, masked: bool) -> Bucket:
    """One bucket of the documents ``chosen``, padded to ``length``."""
    starts, lengths = layout.document_starts[chosen], layout.document_lengths[chosen]
    offset = np.arange(length)
    real = offset[None, :] < lengths[:, None]
    index = starts[:, None] + np.where(real, offset[None, :], 0)
    mask = None
    if masked:
        # Padding stands after the real keys of its document: causality alone hides it from every real query.
        owner = torch.from_numpy(np.where(real, block_of[index], -1))
        same_block = (owner[:, :, None] == owner[:, None, :]) & (owner[:, :, None] >= 0)
        mask = (torch.ones(length, length, dtype=torch.bool).tril() | same_block)[:, None]
    return Bucket(
        index=torch.from_numpy(index.reshape(-1)),
        source=torch.from_numpy(np.flatnonzero(real)),
        target=torch.from_numpy(index[real]),
        documents=len(chosen),
        length=length,
        mask=mask,
    )


def attend(
    query_THD: torch.Tensor, key_TGD: torch.Tensor, value_TGD: torch.Tensor, buckets: tuple[Bucket, ...], scale: float
) -> torch.Tensor:
    """Attention of T packed tokens: H query heads over G key/value heads of width D; returns [T, H * D]."""
    grouped = query_THD.shape[1] != key_TGD.shape[1]
    if len(buckets) == 1 and buckets[0].index is None:
        return _bucket_attention(query_THD, key_TGD, value_TGD, buckets[0], scale, grouped)
    parts, targets = [], []
    for bucket in buckets:
        assert bucket.index is not None and bucket.source is not None and bucket.target is not None
        query, key, value = (t.index_select(0, bucket.index) for t in (query_THD, key_TGD, value_TGD))
        out = _bucket_attention(query, key, value, bucket, scale, grouped)
        parts.append(out.index_select(0, bucket.source))
        targets.append(bucket.target)
    order = torch.cat(targets).argsort()
    return torch.cat(parts).index_select(0, order)


def _bucket_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bucket: Bucket, scale: float, grouped: bool
) -> torch.Tensor:
    """[n * L, heads, D] each; returns [n * L, H * D]."""
    q, k, v = (t.unflatten(0, (bucket.documents, bucket.length)).transpose(1, 2) for t in (query, key, value))
    out = scaled_dot_product_attention(
        q, k, v, attn_mask=bucket.mask, is_causal=bucket.mask is None, scale=scale, enable_gqa=grouped
    )
    return out.transpose(1, 2).reshape(bucket.documents * bucket.length, -1)
