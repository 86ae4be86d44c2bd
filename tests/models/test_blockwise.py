"""Blockwise attention against softmax written out in fp64: block borders, image blocks, groups, gradients, bf16."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from megatron_nmm.models.attention.blockwise import BLOCK, attention, query_blocks

SCALE = 0.3
BORDER_LENGTHS = (1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 300)
IMAGES = [(0, 4), (BLOCK - 28, BLOCK + 32), (2 * BLOCK, 2 * BLOCK + 9)]
"""Blocks at the start, across a border between query blocks, and from a border on."""
QKV = list[torch.Tensor]


def qkv(length: int, heads: int = 2, groups: int = 2, documents: int = 2, width: int = 16) -> QKV:
    """Queries, keys and values [N, heads, L, D], strided as they come out of a packed row [N * L, heads, D]."""
    generator = torch.Generator().manual_seed(length)
    return [
        torch.randn(documents, length, n, width, generator=generator).transpose(1, 2) for n in (heads, groups, groups)
    ]


def causal(length: int) -> torch.Tensor:
    """[1, 1, L, L]"""
    return torch.ones(length, length, dtype=torch.bool).tril()[None, None]


def with_images(length: int) -> torch.Tensor:
    """[2, 1, L, L]: the first document is text, the second holds ``IMAGES``."""
    visible = causal(length).repeat(2, 1, 1, 1)
    for start, end in IMAGES:
        visible[1, :, start:end, start:end] = True
    return visible


def naive(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: torch.Tensor, scale: float = SCALE
) -> torch.Tensor:
    """Softmax over the visible keys, in the dtype of its arguments."""
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    scores = (q @ k.transpose(2, 3) * scale).masked_fill(~visible, float("-inf"))
    return scores.softmax(-1) @ v


def everything(function: object, inputs: QKV, dtype: torch.dtype) -> QKV:
    """Output and the three gradients of ``function`` computed in ``dtype``, for one seeded output gradient."""
    leaves = [t.detach().to(dtype).requires_grad_() for t in inputs]
    out = function(*leaves)  # type: ignore[operator]
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(inputs[0].dtype).to(dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def compare(inputs: QKV, mask: torch.Tensor | None) -> None:
    """Forward and backward of blockwise attention equal the definition in fp64."""
    length = inputs[0].shape[2]
    blocks = query_blocks(length, mask)
    visible = causal(length) if mask is None else mask
    mine = everything(lambda q, k, v: attention(q, k, v, blocks, SCALE), inputs, torch.float32)
    exact = everything(lambda q, k, v: naive(q, k, v, visible), inputs, torch.float64)
    for got, expected in zip(mine, exact, strict=True):
        torch.testing.assert_close(got, expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", BORDER_LENGTHS)
def test_causal_equals_the_definition(length: int) -> None:
    compare(qkv(length), None)


@pytest.mark.parametrize("length", [300, 2 * BLOCK + 9])
def test_image_blocks_across_a_border_equal_the_definition(length: int) -> None:
    compare(qkv(length), with_images(length))


@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (4, 1), (3, 3)])
def test_grouped_queries(heads: int, groups: int) -> None:
    compare(qkv(BLOCK + 9, heads, groups), None)
    compare(qkv(300, heads, groups), with_images(300))


def test_one_block_without_a_border_may_see_everything() -> None:
    compare(qkv(17), torch.ones(1, 1, 17, 17, dtype=torch.bool))


@pytest.mark.parametrize("length", BORDER_LENGTHS)
def test_causal_blocks_meet_only_the_keys_they_may_see(length: int) -> None:
    blocks = query_blocks(length, None)
    assert [row for b in blocks for row in range(b.rows.start, b.rows.stop)] == list(range(length))
    assert all(block.keys == block.rows.stop for block in blocks)
    scores = sum((b.rows.stop - b.rows.start) * b.keys for b in blocks)
    assert scores <= length * (length + BLOCK) / 2


def test_the_gradient_is_that_of_finite_differences() -> None:
    leaves = [t.double().requires_grad_() for t in qkv(5, heads=2, groups=1, documents=1)]
    mask = causal(5).clone()
    mask[..., 1:4, 1:4] = True
    for visible in (None, mask):
        blocks = query_blocks(5, visible)
        assert torch.autograd.gradcheck(lambda q, k, v, b=blocks: attention(q, k, v, b, SCALE), leaves)


# A scale that is no power of two rounds the query once more: head width 48 pays for it.
@pytest.mark.parametrize(("width", "limit"), [(16, 2.0), (64, 2.0), (48, 2.5)])
@pytest.mark.parametrize("length", [17, 300])
def test_bf16_is_nearly_as_exact_as_torchs_kernel(length: int, width: int, limit: float) -> None:
    inputs = [t.bfloat16() for t in qkv(length, width=width)]
    blocks, scale = query_blocks(length, None), width**-0.5
    exact = everything(lambda q, k, v: naive(q, k, v, causal(length), scale), inputs, torch.float64)
    torchs = everything(
        lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale), inputs, torch.bfloat16
    )
    mine = everything(lambda q, k, v: attention(q, k, v, blocks, scale), inputs, torch.bfloat16)
    for name, got, his, truth in zip(("out", "dq", "dk", "dv"), mine, torchs, exact, strict=True):
        assert got.dtype == torch.bfloat16
        assert (got - truth).norm() <= limit * (his - truth).norm(), name
