"""Packed attention for GPUs: FlexAttention with a mask of documents and image blocks.

The block mask is computed on the device from two index vectors, and blocks of 128 x 128 that no rule allows are
skipped: cost follows the documents, not T^2. For bidirectional documents the host knows every block beforehand.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from megatron_nmm.models.attention import outline
from megatron_nmm.models.attention.layout import PackedLayout

BLOCK = 128
"""Side of a block of the mask: FlexAttention's default."""


@dataclass(frozen=True)
class FlexMask:
    """The block mask of one microbatch and the kernel that reads it."""

    block_mask: BlockMask
    kernel: Callable[..., Any]


def mask_rule(
    document_T: torch.Tensor, block_T: torch.Tensor, queries_Q: torch.Tensor | None = None
) -> Callable[..., torch.Tensor]:
    """The rule of layout.py as FlexAttention's ``mask_mod`` (batch, head, query, key) -> bool.

    ``queries_Q``: flat positions of the queries; None = query i stands at position i.
    """

    def rule(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        at = i if queries_Q is None else queries_Q[i]
        same_block = (block_T[at] == block_T[j]) & (block_T[at] >= 0)
        return (document_T[at] == document_T[j]) & ((j <= at) | same_block)

    return rule


def prepare(layout: PackedLayout, device: torch.device) -> FlexMask:
    """Build the block mask of ``layout`` on ``device``; done once a microbatch, shared by every layer."""
    document = torch.from_numpy(layout.document_of()).to(device, non_blocking=True)
    block = torch.from_numpy(layout.block_of()).to(device, non_blocking=True)
    queries = None if layout.queries is None else torch.from_numpy(layout.queries).to(device, non_blocking=True)
    tokens, rule = layout.tokens, mask_rule(document, block, queries)
    if layout.causal:
        asking = tokens if queries is None else len(queries)
        block_mask = create_block_mask(rule, None, None, asking, tokens, device=str(device))
    else:
        block_mask = full_block_mask(layout, rule, device)
    return FlexMask(block_mask, KERNELS.get(device.type, compiled)(layout.causal))


def compiled(causal: bool) -> Callable[..., Any]:
    """The kernel of a GPU: uncompiled FlexAttention materialises T x T scores.

    Rows of a decoder are all of one length; those of an encoder differ, and must not compile anew each time.
    """
    return torch.compile(flex_attention, dynamic=not causal)


KERNELS: dict[str, Callable[[bool], Callable[..., Any]]] = {
    "cpu": lambda causal: flex_attention,
    "meta": lambda causal: outline.attention,
}
"""Device type -> kernel, given whether documents are causal; every other type takes ``compiled``."""


def full_block_mask(layout: PackedLayout, rule: Callable[..., torch.Tensor], device: torch.device) -> BlockMask:
    """What ``create_block_mask`` finds for bidirectional documents, without its T x T mask: tens of thousands of
    patches, other ones every microbatch, would fill gigabytes with it."""
    document, tokens = layout.document_of(), layout.tokens
    starts = np.arange(0, tokens, BLOCK)
    first, last = document[starts], document[np.minimum(starts + BLOCK, tokens) - 1]
    seen = torch.from_numpy((first[:, None] <= last[None, :]) & (first[None, :] <= last[:, None]))
    whole = (first == last) & (starts + BLOCK <= tokens)
    full = torch.from_numpy(whole[:, None] & whole[None, :] & (first[:, None] == first[None, :]))
    return BlockMask.from_kv_blocks(
        *_listed(seen & ~full, device), *_listed(full, device), BLOCK, rule, seq_lengths=(tokens, tokens)
    )


def _listed(blocks: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """[n, n] bool -> how many blocks each row of blocks has, and their indices, in FlexAttention's shapes."""
    count = blocks.sum(1, dtype=torch.int32)[None, None]
    index = torch.argsort(blocks.int(), dim=1, descending=True, stable=True).to(torch.int32)[None, None]
    return count.to(device, non_blocking=True), index.to(device, non_blocking=True)


def attend(
    query_QHD: torch.Tensor, key_TGD: torch.Tensor, value_TGD: torch.Tensor, mask: FlexMask, scale: float
) -> torch.Tensor:
    """Attention of Q of T packed tokens: H query heads over G key/value heads of width D; returns [Q, H * D]."""
    query, key, value = (t.transpose(0, 1).unsqueeze(0) for t in (query_QHD, key_TGD, value_TGD))
    grouped = query_QHD.shape[1] != key_TGD.shape[1]
    out: torch.Tensor = mask.kernel(query, key, value, block_mask=mask.block_mask, scale=scale, enable_gqa=grouped)
    return out.squeeze(0).transpose(0, 1).reshape(query_QHD.shape[0], -1)
