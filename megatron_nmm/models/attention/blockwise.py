"""Exact softmax attention in blocks of queries: what a CPU does fastest for documents of some hundred tokens.

Each block of ``BLOCK`` queries meets only the keys it may see, so a causal square costs about half; products are
batched over documents and heads. Probabilities are kept for the backward pass (bf16 in a bf16 model), which torch's
flash kernel recomputes: on CPUs that kernel's backward takes several times as long as these products. Scores are
rounded to the model's dtype before the softmax, as in every unfused attention; the softmax itself works in fp32.
"""

from dataclasses import dataclass
from typing import Any

import torch

BLOCK = 256
"""Queries computed together."""
HOST = torch.device("cpu")


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


def query_blocks(length: int, visible: torch.Tensor | None, device: torch.device = HOST) -> tuple[QueryBlock, ...]:
    """Blocks of a bucket of ``length`` queries; ``visible`` is its host mask [n, 1, length, keys], None = causal."""
    blocks = []
    for start in range(0, length, BLOCK):
        rows = slice(start, min(start + BLOCK, length))
        if visible is None:
            hidden = torch.ones(rows.stop - start, rows.stop - start, dtype=torch.bool).triu(1)[None, None]
            blocks.append(QueryBlock(rows, rows.stop, hidden.to(device, non_blocking=True), start))
        else:
            of_rows = visible[:, :, rows]
            keys = int(of_rows.any(dim=(0, 1, 2)).nonzero().max()) + 1
            first = int(of_rows.all(dim=2).all(dim=0).int().cumprod(-1).sum())
            hidden = ~of_rows[..., first:keys]
            blocks.append(QueryBlock(rows, keys, hidden.to(device, non_blocking=True), first))
    return tuple(blocks)


def full_blocks(length: int, inside: torch.Tensor, device: torch.device = HOST) -> tuple[QueryBlock, ...]:
    """Blocks of a bucket of bidirectional documents; ``inside`` [n, L] is False on padding after a document's end, and
    on the host."""
    first = int(inside.all(0).sum())
    hidden = (~inside[:, None, None, first:]).to(device, non_blocking=True)
    return tuple(
        QueryBlock(slice(start, min(start + BLOCK, length)), length, hidden, first) for start in range(0, length, BLOCK)
    )


def attention(
    query_NHLD: torch.Tensor,
    key_NGKD: torch.Tensor,
    value_NGKD: torch.Tensor,
    blocks: tuple[QueryBlock, ...],
    scale: float,
) -> torch.Tensor:
    """[N documents, H heads, L queries, D] attending [N, G, K keys, D]; returns [N, H, L, D]."""
    heads, groups = query_NHLD.shape[1], key_NGKD.shape[1]
    if groups != heads:
        key_NGKD = key_NGKD.repeat_interleave(heads // groups, 1)
        value_NGKD = value_NGKD.repeat_interleave(heads // groups, 1)
    out: torch.Tensor = _BlockwiseAttention.apply(query_NHLD, key_NGKD, value_NGKD, blocks, scale)
    return out


class _BlockwiseAttention(torch.autograd.Function):
    """Batches are N * H squares or rectangles laid end to end; only the mask needs documents and heads apart.

    Blocks of queries, outputs and their gradients lie packed while they are computed with: oneDNN copies every operand
    and result of a batched product that does not. Results lie in memory as packed tokens do, [N, L, H, D], so that
    whoever flattens them copies nothing.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        blocks: tuple[QueryBlock, ...],
        scale: float,
    ) -> torch.Tensor:
        k, v = key.contiguous().flatten(0, 1), value.contiguous().flatten(0, 1)
        out = _as_tokens(query)
        queries, kept = [], []
        for block in blocks:
            part = query[:, :, block.rows]
            q = torch.mul(part, scale, out=part.new_empty(part.shape)).flatten(0, 1)
            scores = torch.bmm(q, k[:, : block.keys].transpose(1, 2))
            scores.unflatten(0, query.shape[:2])[..., block.first :].add_(_minus_infinity(block.hidden, scores.dtype))
            probabilities = torch.softmax(scores, -1)
            out[:, :, block.rows] = torch.bmm(probabilities, v[:, : block.keys]).view(part.shape)
            queries.append(q)
            kept.append(probabilities)
        ctx.save_for_backward(k, v, *queries, *kept)
        ctx.blocks, ctx.scale, ctx.key_shape = blocks, scale, key.shape
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        k, v, *saved = ctx.saved_tensors
        count = len(ctx.blocks)
        grad_q, grad_k, grad_v = _as_tokens(grads[0]), torch.zeros_like(k), torch.zeros_like(v)
        for block, q, probabilities in zip(ctx.blocks, saved[:count], saved[count:], strict=True):
            rows, keys = block.rows, slice(0, block.keys)
            grad = grads[0][:, :, rows].contiguous().flatten(0, 1)
            grad_v[:, keys].baddbmm_(probabilities.transpose(1, 2), grad)
            grad_scores = torch.bmm(grad, v[:, keys].transpose(1, 2))
            torch.ops.aten._softmax_backward_data.out(
                grad_scores, probabilities, -1, grad.dtype, grad_input=grad_scores
            )
            part = grad_q[:, :, rows]
            torch.mul(torch.bmm(grad_scores, k[:, keys]).view(part.shape), ctx.scale, out=part)
            grad_k[:, keys].baddbmm_(grad_scores.transpose(1, 2), q)
        return grad_q, grad_k.view(ctx.key_shape), grad_v.view(ctx.key_shape), None, None


def _as_tokens(like: torch.Tensor) -> torch.Tensor:
    """An empty [N, H, L, D] that lies in memory as [N, L, H, D]."""
    documents, heads, length, width = like.shape
    return like.new_empty(documents, length, heads, width).transpose(1, 2)


def _minus_infinity(hidden: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """-inf where ``hidden``, else 0: adding it is several times faster than filling under a mask."""
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))
