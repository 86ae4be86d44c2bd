"""The attention backends against the rule written out, over random packings, for all queries and for some."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from megatron_nmm.config import PrecisionConfig
from megatron_nmm.device.cpu import CpuDevice
from megatron_nmm.models.attention import flex, fused, per_document, per_piece
from megatron_nmm.models.attention.core import chosen
from megatron_nmm.models.attention.layout import PackedLayout, dense_mask


def random_layout(seed: int, tokens: int, longest: int) -> PackedLayout:
    """Documents of random length, some with up to two image blocks."""
    generator = np.random.default_rng(seed)
    lengths, blocks, start = [], [], 0
    while start < tokens:
        length = int(min(generator.integers(1, longest + 1), tokens - start))
        cuts = np.sort(generator.choice(length + 1, size=min(4, length + 1), replace=False)) + start
        blocks += [(cuts[i], cuts[i + 1]) for i in range(0, len(cuts) - 1, 2)][: int(generator.integers(0, 3))]
        lengths.append(length)
        start += length
    starts = np.cumsum([0, *lengths[:-1]])
    return PackedLayout(starts, np.array(lengths), np.array(blocks, dtype=np.int64).reshape(-1, 2))


def full_layout(seed: int, tokens: int, longest: int) -> PackedLayout:
    """The same documents, each bidirectional as a whole."""
    return PackedLayout.full(random_layout(seed, tokens, longest).document_lengths)


def brute_force_mask(layout: PackedLayout) -> torch.Tensor:
    """The rule of the model, one pair at a time."""
    mask = torch.zeros(layout.tokens, layout.tokens, dtype=torch.bool)
    for start, length in zip(layout.document_starts, layout.document_lengths, strict=True):
        for i in range(start, start + length):
            for j in range(start, start + length):
                image = any(a <= i < b and a <= j < b for a, b in layout.blocks)
                mask[i, j] = j <= i or image or not layout.causal
    return mask


def naive(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    """Softmax attention with a T x T mask, head by head in fp64."""
    repeat = q.shape[1] // k.shape[1]
    q, k, v = (t.double().transpose(0, 1) for t in (q, k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)))
    scores = (q @ k.transpose(1, 2) * scale).masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)


def some_queries(seed: int, tokens: int, chunk: int) -> np.ndarray:
    """Every position of some chunks, as a rank has them that shares its rows."""
    chosen = np.random.default_rng(seed).permutation(-(-tokens // chunk))[: max(1, tokens // chunk // 2)]
    return np.concatenate([np.arange(c * chunk, min(tokens, (c + 1) * chunk)) for c in np.sort(chosen)])


def tensors(tokens: int, heads: int, groups: int, seed: int = 0) -> list[torch.Tensor]:
    """Random queries, keys and values of head width 16."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tokens, n, 16, generator=generator) for n in (heads, groups, groups)]


@pytest.mark.parametrize("seed", range(8))
def test_layout_mask_is_the_rule(seed: int) -> None:
    for layout in (random_layout(seed, 40, 17), full_layout(seed, 40, 17)):
        assert torch.equal(dense_mask(layout), brute_force_mask(layout))


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("of", [random_layout, full_layout], ids=["causal with blocks", "full"])
@pytest.mark.parametrize(("seed", "longest"), [(0, 5), (1, 30), (2, 30), (3, 97), (4, 200), (5, 64)])
def test_per_document_equals_naive_forward_and_backward(
    seed: int, longest: int, of: Callable[..., PackedLayout], groups: int
) -> None:
    layout = of(seed, 97, longest)
    ours, reference = (tensors(97, 4, groups) for _ in range(2))
    for t in ours + reference:
        t.requires_grad_()
    buckets = per_document.prepare(layout, torch.device("cpu"))
    out = per_document.attend(ours[0], ours[1], ours[2], buckets, 0.25)
    expected = naive(reference[0], reference[1], reference[2], dense_mask(layout), 0.25)
    torch.testing.assert_close(out, expected.float(), rtol=1e-5, atol=1e-5)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    out.backward(direction)
    expected.backward(direction.double())
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("chunk", [7, 24, 50])
@pytest.mark.parametrize(("seed", "longest"), [(0, 5), (1, 30), (3, 97), (4, 200), (5, 64)])
def test_pieces_equal_naive_forward_and_backward(seed: int, longest: int, chunk: int, groups: int) -> None:
    layout = replace(random_layout(seed, 97, longest), queries=some_queries(seed, 97, chunk))
    assert layout.queries is not None
    (ours, reference) = (tensors(97, 4, groups) for _ in range(2))
    ours[0], reference[0] = ours[0][layout.queries], reference[0][layout.queries]
    for t in ours + reference:
        t.requires_grad_()
    out = per_piece.attend(ours[0], ours[1], ours[2], per_piece.prepare(layout, torch.device("cpu")), 0.25)
    expected = naive(reference[0], reference[1], reference[2], dense_mask(layout), 0.25)
    torch.testing.assert_close(out, expected.float(), rtol=1e-5, atol=1e-5)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    out.backward(direction)
    expected.backward(direction.double())
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_half_of_the_queries_cost_half_the_scores() -> None:
    """A document of 4,096 tokens in the outer and the inner two quarters of it: 5 + 5 of ten squares of a quarter."""
    layout = PackedLayout(np.array([0]), np.array([4096]), np.zeros((0, 2), dtype=np.int64))
    whole = sum(block.keys for block in per_document.prepare(layout, torch.device("cpu")).buckets[0].blocks)
    for queries in (np.r_[0:1024, 3072:4096], np.r_[1024:3072]):
        plan = per_piece.prepare(replace(layout, queries=queries), torch.device("cpu"))
        half = sum(bucket.pieces * block.keys for bucket in plan.buckets for block in bucket.blocks)
        assert half == whole // 2
        masked = sum(block.hidden.shape[-1] for bucket in plan.buckets for block in bucket.blocks)
        assert masked <= len(queries), "only the diagonal is masked"


@pytest.mark.parametrize("causal", [True, False])
def test_equal_documents_need_no_gather(causal: bool) -> None:
    layout = PackedLayout(np.array([0, 32]), np.array([32, 32]), np.zeros((0, 2), dtype=np.int64), causal)
    buckets = per_document.prepare(layout, torch.device("cpu"))
    assert buckets.order is None
    q, k, v = tensors(64, 2, 2)
    expected = naive(q, k, v, dense_mask(layout), 0.25)
    torch.testing.assert_close(per_document.attend(q, k, v, buckets, 0.25), expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("of", [random_layout, full_layout], ids=["causal with blocks", "full"])
def test_flex_mask_is_the_rule(seed: int, of: Callable[..., PackedLayout]) -> None:
    layout = of(seed, 60, 25)
    rule: Callable[..., Any] = flex.mask_rule(
        torch.from_numpy(layout.document_of()), torch.from_numpy(layout.block_of())
    )
    index = torch.arange(60)
    zero = torch.zeros((), dtype=torch.int64)
    assert torch.equal(rule(zero, zero, index[:, None], index[None, :]), dense_mask(layout))


@pytest.mark.parametrize("seed", range(4))
def test_flex_for_some_queries_is_the_rule(seed: int) -> None:
    layout = replace(random_layout(seed, 96, 40), queries=some_queries(seed, 96, 12))
    q, k, v = tensors(96, 4, 2)
    mine = q[layout.queries]
    out = flex.attend(mine, k, v, flex.prepare(layout, torch.device("cpu")), 0.25)
    torch.testing.assert_close(out, naive(mine, k, v, dense_mask(layout), 0.25).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("tokens", "longest"), [(60, 25), (128, 200), (640, 300), (1000, 90), (700, 1000)])
def test_flex_blocks_of_full_documents_are_those_torch_finds(tokens: int, longest: int) -> None:
    layout = full_layout(7, tokens, longest)
    document = torch.from_numpy(layout.document_of())
    rule, cpu = flex.mask_rule(document, document), torch.device("cpu")
    ours = flex.full_block_mask(layout, rule, cpu)
    theirs = create_block_mask(rule, None, None, tokens, tokens, device="cpu")
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("of", [random_layout, full_layout], ids=["causal with blocks", "full"])
def test_flex_equals_naive(of: Callable[..., PackedLayout], groups: int) -> None:
    """Forward only: torch has no CPU backward for FlexAttention; the GPU test below has both."""
    layout = of(3, 96, 40)
    q, k, v = tensors(96, 4, groups)
    out = flex.attend(q, k, v, flex.prepare(layout, torch.device("cpu")), 0.25)
    torch.testing.assert_close(out, naive(q, k, v, dense_mask(layout), 0.25).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: FlexAttention's backward and its kernel")
@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("of", [random_layout, full_layout], ids=["causal with blocks", "full"])
def test_flex_equals_naive_on_a_gpu_forward_and_backward(
    of: Callable[..., PackedLayout], cut: bool, groups: int
) -> None:
    layout = of(3, 512, 200)
    ours, reference = tensors(512, 4, groups), tensors(512, 4, groups)
    if cut and layout.causal:
        layout = replace(layout, queries=some_queries(3, 512, 64))
        ours[0], reference[0] = ours[0][layout.queries], reference[0][layout.queries]
    ours = [t.cuda().requires_grad_() for t in ours]
    reference = [t.requires_grad_() for t in reference]
    out = flex.attend(ours[0], ours[1], ours[2], flex.prepare(layout, torch.device("cuda")), 0.25)
    expected = naive(reference[0], reference[1], reference[2], dense_mask(layout), 0.25)
    torch.testing.assert_close(out.cpu(), expected.float(), rtol=1e-3, atol=1e-3)
    out.sum().backward()
    expected.sum().backward()
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine.grad.cpu(), theirs.grad, rtol=1e-3, atol=1e-3)  # type: ignore[union-attr]


@pytest.mark.parametrize("of", [random_layout, full_layout], ids=["causal with blocks", "full"])
def test_cost_follows_the_documents_not_the_row(of: Callable[..., PackedLayout]) -> None:
    """The scores computed for many short documents are a small multiple of the sum of squares of their lengths."""
    layout = of(0, 4096, 64)
    buckets = per_document.prepare(layout, torch.device("cpu"))
    computed = sum(b.documents * b.length**2 for b in buckets.buckets)
    needed = int((layout.document_lengths**2).sum())
    assert computed < 1.6 * needed
    assert computed < 0.03 * layout.tokens**2


class DotProductAttention(torch.nn.Module):
    """Transformer Engine's module as its sources declare it (release 2.18), for whole documents, in plain torch.

    https://github.com/NVIDIA/TransformerEngine, pytorch/attention/dot_product_attention
    """

    def __init__(
        self,
        num_attention_heads: int,
        kv_channels: int,
        num_gqa_groups: int | None = None,
        attention_dropout: float = 0.0,
        qkv_format: str = "sbhd",
        attn_mask_type: str = "causal",
        *,
        softmax_scale: float | None = None,
    ) -> None:
        super().__init__()
        assert (qkv_format, attention_dropout) == ("thd", 0.0) and attn_mask_type.startswith("padding")
        self.sizes, self.causal = (num_attention_heads, num_gqa_groups, kv_channels), "causal" in attn_mask_type
        self.scale = softmax_scale

    def forward(
        self,
        query_layer: torch.Tensor,
        key_layer: torch.Tensor,
        value_layer: torch.Tensor,
        attention_mask: None = None,
        *,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_kv: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_kv: int,
    ) -> torch.Tensor:
        assert self.sizes == (query_layer.shape[1], *key_layer.shape[1:])
        assert cu_seqlens_q is cu_seqlens_kv and cu_seqlens_q.dtype == torch.int32
        lengths = cu_seqlens_q.diff().numpy().astype(np.int64)
        assert max_seqlen_q == max_seqlen_kv == lengths.max() and lengths.sum() == len(query_layer)
        layout = replace(PackedLayout.full(lengths), causal=self.causal)
        assert self.scale is not None
        return naive(query_layer, key_layer, value_layer, dense_mask(layout), self.scale).float()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Transformer Engine, as far as attention needs it."""
    found: Any = ModuleType("transformer_engine.pytorch")
    found.DotProductAttention = DotProductAttention
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch", found)
    fused.kernel.cache_clear()
    yield
    fused.kernel.cache_clear()


def without_blocks(seed: int, tokens: int, longest: int) -> PackedLayout:
    """Causal documents, images included."""
    return replace(random_layout(seed, tokens, longest), blocks=np.zeros((0, 2), dtype=np.int64))


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("of", [without_blocks, full_layout], ids=["causal", "full"])
def test_fused_kernels_are_told_the_rule(of: Callable[..., PackedLayout], groups: int) -> None:
    layout = of(3, 96, 40)
    q, k, v = tensors(96, 4, groups)
    out = fused.attend(q, k, v, fused.prepare(layout, torch.device("cpu")), 0.25)
    torch.testing.assert_close(out, naive(q, k, v, brute_force_mask(layout), 0.25).float(), rtol=1e-6, atol=1e-6)


def test_fused_kernels_take_what_they_know_and_no_more() -> None:
    """They need bf16, whole documents and whole rows, on a device whose layers are Transformer Engine's."""
    gpu: Any = SimpleNamespace(eight_bit_products=True, attention_backend="flex")
    cpu, eight, plain = CpuDevice(), PrecisionConfig(recipe="fp8_current"), PrecisionConfig()
    assert chosen(eight, gpu, whole_documents=True) is fused
    assert chosen(eight, gpu, whole_documents=False) is flex
    assert chosen(eight, gpu, whole_documents=True, cut=True) is flex
    assert chosen(plain, gpu, whole_documents=True) is flex
    for other in (replace(eight, attention="flex"), replace(eight, dtype="fp32"), replace(eight, emulate=True)):
        assert chosen(other, gpu, whole_documents=True) is flex
    assert chosen(eight, cpu, whole_documents=True) is per_document
    assert chosen(eight, cpu, whole_documents=True, cut=True) is per_piece
    with pytest.raises(AssertionError, match="whole documents alone"):
        fused.prepare(random_layout(0, 40, 17), torch.device("cpu"))


READY = torch.cuda.is_available() and find_spec("transformer_engine") is not None


@pytest.mark.skipif(not READY, reason="needs a GPU with Transformer Engine: its fused attention")
@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("of", [without_blocks, full_layout], ids=["causal", "full"])
def test_fused_equals_naive_on_a_gpu_forward_and_backward(of: Callable[..., PackedLayout], groups: int) -> None:
    layout = of(3, 512, 200)
    reference = [t.bfloat16().requires_grad_() for t in tensors(512, 4, groups)]
    ours = [t.detach().cuda().requires_grad_() for t in reference]
    out = fused.attend(ours[0], ours[1], ours[2], fused.prepare(layout, torch.device("cuda")), 0.25)
    expected = naive(reference[0], reference[1], reference[2], dense_mask(layout), 0.25)
    torch.testing.assert_close(out.cpu().double(), expected, rtol=2e-2, atol=2e-2)
    out.sum().backward()
    expected.sum().backward()
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine.grad.cpu(), theirs.grad, rtol=2e-2, atol=2e-2)  # type: ignore[union-attr]
