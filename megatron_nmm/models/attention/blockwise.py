"""Exact softmax attention in blocks of queries: what a CPU does fastest for documents of some hundred tokens.

Each block of ``BLOCK`` queries meets only the keys it may see, so a causal square costs about half; products are
batched over documents and heads. Probabilities are kept for the backward pass (bf16 in a bf16 model), which torch's
flash kernel recomputes: on CPUs that kernel's backward takes several times as long as these products. Scores are
rounded to the model's dtype before the softmax, as in every unfused attention; the softmax itself works in fp32.
"""

from dataclasses import dataclass
from typing import Any

import torch

BLOCK = 128
"""Queries computed together."""


@dataclass(frozen=True)
class QueryBlock:
    """Queries ``rows`` of every document of a bucket and the keys they may meet."""

    rows: slice
    keys: int
    """Keys 0 .. keys - 1 are visible to at least one query of the block."""
    hidden: torch.Tensor
    """[n or 1, 1, rows or 1, keys - first] bool, True where a query may not attend."""
    first: int
    """Key at which ``hidden`` begins; all keys before it are visible to every query of the block."""


def query_blocks(length: int, visible: torch.Tensor | None) -> tuple[QueryBlock, ...]:
    """Blocks of a bucket of documents of ``length``; ``visible`` is its mask [n, 1, L, L], None = causal."""
    blocks = []
    for start in range(0, length, BLOCK):
        rows = slice(start, min(start + BLOCK, length))
        if visible is None:
            hidden = torch.ones(rows.stop - start, rows.stop - start, dtype=torch.bool).triu(1)[None, None]
            blocks.append(QueryBlock(rows, rows.stop, hidden, start))
        else:
            seen = visible[:, :, rows].any(dim=(0, 1, 2)).nonzero()
            keys = int(seen.max()) + 1
            blocks.append(QueryBlock(rows, keys, ~visible[:, :, rows, :keys], 0))
    return tuple(blocks)


def full_blocks(length: int, inside: torch.Tensor) -> tuple[QueryBlock, ...]:
    """Blocks of a bucket of bidirectional documents; ``inside`` [n, L] is False on padding after a document's end."""
    first = int(inside.all(0).sum())
    hidden = ~inside[:, None, None, first:]
    return tuple(
        QueryBlock(slice(start, min(start + BLOCK, length)), length, hidden, first) for start in range(0, length, BLOCK)
    )


def attention(
    query_NHLD: torch.Tensor,
    key_NGLD: torch.Tensor,
    value_NGLD: torch.Tensor,
    blocks: tuple[QueryBlock, ...],
    scale: float,
) -> torch.Tensor:
    """[N documents, H heads, L, D] attending [N, G, L, D]; returns [N, H, L, D]."""
    heads, groups = query_NHLD.shape[1], key_NGLD.shape[1]
    if groups != heads:
        key_NGLD = key_NGLD.repeat_interleave(heads // groups, 1)
        value_NGLD = value_NGLD.repeat_interleave(heads // groups, 1)
    out: torch.Tensor = _BlockwiseAttention.apply(query_NHLD, key_NGLD, value_NGLD, blocks, scale)
    return out


class _BlockwiseAttention(torch.autograd.Function):
    """Batches are N * H squares laid end to end; only the mask needs documents and heads apart."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        blocks: tuple[QueryBlock, ...],
        scale: float,
    ) -> torch.Tensor:
        shape = query.shape
        q = torch.mul(query, scale, out=query.new_empty(shape)).flatten(0, 1)
        k, v = key.contiguous().flatten(0, 1), value.contiguous().flatten(0, 1)
        out = torch.empty_like(q)
        kept = []
        for block in blocks:
            scores = torch.bmm(q[:, block.rows], k[:, : block.keys].transpose(1, 2))
            scores.unflatten(0, shape[:2])[..., block.first :].masked_fill_(block.hidden, float("-inf"))
            probabilities = torch.softmax(scores, -1)
            torch.bmm(probabilities, v[:, : block.keys], out=out[:, block.rows])
            kept.append(probabilities)
        ctx.save_for_backward(q, k, v, out, *kept)
        ctx.blocks, ctx.scale, ctx.shape = blocks, scale, shape
        return out.view(shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        q, k, v, out, *kept = ctx.saved_tensors
        grad = grads[0].contiguous().flatten(0, 1)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        # The softmax's gradient needs sum(P * dP) of each row, which is sum(out * grad): L values instead of L x L.
        row_sum = torch.linalg.vecdot(out.float(), grad.float()).to(q.dtype).unsqueeze(-1)
        for block, probabilities in zip(ctx.blocks, kept, strict=True):
            rows, keys = block.rows, slice(0, block.keys)
            grad_v[:, keys].baddbmm_(probabilities.transpose(1, 2), grad[:, rows])
            grad_scores = torch.bmm(grad[:, rows], v[:, keys].transpose(1, 2))
            grad_scores.sub_(row_sum[:, rows]).mul_(probabilities)
            torch.bmm(grad_scores, k[:, keys], out=grad_q[:, rows])
            grad_k[:, keys].baddbmm_(grad_scores.transpose(1, 2), q[:, rows])
        return grad_q.mul_(ctx.scale).view(ctx.shape), grad_k.view(ctx.shape), grad_v.view(ctx.shape), None, None
