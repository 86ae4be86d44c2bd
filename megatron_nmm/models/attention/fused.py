"""Packed attention by Transformer Engine's fused kernels, where documents are causal or bidirectional as a whole.

They take documents of any length laid end to end and skip whatever lies between two of them. Image blocks inside a
document, or queries that are some of its positions, are none of theirs.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from megatron_nmm.models.attention.layout import PackedLayout


@dataclass(frozen=True)
class Documents:
    """Where documents begin and end."""

    bounds: torch.Tensor
    """[D + 1] int32 on the device: starts of the documents, and T."""
    longest: int
    """Tokens; the kernels would wait for the device to learn it."""
    mask: str
    """Transformer Engine's name of it."""


def prepare(layout: PackedLayout, device: torch.device) -> Documents:
    """What the kernels need to know of ``layout``, whose documents have neither blocks nor chosen queries."""
    assert layout.queries is None and not len(layout.blocks), "the fused kernels know whole documents alone"
    bounds = torch.from_numpy(np.append(layout.document_starts, layout.tokens).astype(np.int32))
    # Packed rows are full: "padding" is the name of documents laid end to end, without a token between two of them.
    mask = "padding_causal" if layout.causal else "padding"
    return Documents(bounds.to(device, non_blocking=True), int(layout.document_lengths.max()), mask)


def attend(
    query_THD: torch.Tensor, key_TGD: torch.Tensor, value_TGD: torch.Tensor, documents: Documents, scale: float
) -> torch.Tensor:
    """Attention over T packed tokens: H query heads over G key/value heads of width D; returns [T, H * D]."""
    heads, width = query_THD.shape[1:]
    out: torch.Tensor = kernel(heads, key_TGD.shape[1], width, documents.mask, scale)(
        query_THD,
        key_TGD,
        value_TGD,
        cu_seqlens_q=documents.bounds,
        cu_seqlens_kv=documents.bounds,
        max_seqlen_q=documents.longest,
        max_seqlen_kv=documents.longest,
    )
    return out


@cache
def kernel(heads: int, groups: int, width: int, mask: str, scale: float) -> Any:
    """Transformer Engine's attention for a rank's heads: a module without weights or state, one for all layers."""
    # Here, because it is there on GPUs alone.
    from transformer_engine.pytorch import DotProductAttention

    return DotProductAttention(
        heads, width, num_gqa_groups=groups, qkv_format="thd", attn_mask_type=mask, softmax_scale=scale
    )
