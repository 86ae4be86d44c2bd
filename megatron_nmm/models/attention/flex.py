"""Packed attention for GPUs: FlexAttention with a mask of documents and image blocks.

The block mask is computed on the device from two index vectors, so nothing of size T x T is ever stored, and blocks
of 128 x 128 that no rule allows are skipped: cost follows the documents, not T^2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from megatron_nmm.models.attention.layout import PackedLayout


@dataclass(frozen=True)
class FlexMask:
    """The block mask of one microbatch and the kernel that reads it."""

    block_mask: BlockMask
    kernel: Callable[..., Any]


def mask_rule(document_T: torch.Tensor, block_T: torch.Tensor) -> Callable[..., torch.Tensor]:
    """The rule of layout.py as FlexAttention's ``mask_mod`` (batch, head, query, key) -> bool."""

    def rule(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        same_block = (block_T[i] == block_T[j]) & (block_T[i] >= 0)
        return (document_T[i] == document_T[j]) & ((j <= i) | same_block)

    return rule


def prepare(layout: PackedLayout, device: torch.device) -> FlexMask:
    """Build the block mask of ``layout`` on ``device``; done once a microbatch, shared by every layer."""
    document = torch.from_numpy(layout.document_of()).to(device, non_blocking=True)
    block = torch.from_numpy(layout.block_of()).to(device, non_blocking=True)
    tokens = layout.tokens
    block_mask = create_block_mask(mask_rule(document, block), None, None, tokens, tokens, device=str(device))
    # Uncompiled FlexAttention materialises T x T scores; on a GPU the compiled kernel is the point of using it.
    kernel = flex_attention if device.type == "cpu" else torch.compile(flex_attention, dynamic=False)
    return FlexMask(block_mask, kernel)


def attend(
    query_THD: torch.Tensor, key_TGD: torch.Tensor, value_TGD: torch.Tensor, mask: FlexMask, scale: float
) -> torch.Tensor:
    """Attention of T packed tokens: H query heads over G key/value heads of width D; returns [T, H * D]."""
    query, key, value = (t.transpose(0, 1).unsqueeze(0) for t in (query_THD, key_TGD, value_TGD))
    grouped = query_THD.shape[1] != key_TGD.shape[1]
    out: torch.Tensor = mask.kernel(query, key, value, block_mask=mask.block_mask, scale=scale, enable_gqa=grouped)
    return out.squeeze(0).transpose(0, 1).reshape(query_THD.shape[0], -1)
