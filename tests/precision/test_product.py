"""The three products of a linear layer against torch's own 8-bit product, and against casts written out."""

import pytest
import torch

from megatron_nmm.config import PrecisionConfig
from megatron_nmm.config.schema import Recipe
from megatron_nmm.precision.blocks import Block, cast_blocks, largest_below, shared_exponent
from megatron_nmm.precision.casts import BlockCasts, Casts, CurrentCasts
from megatron_nmm.precision.formats import FORMATS
from megatron_nmm.precision.product import Counts, product

T, K, N = 96, 160, 224
"""Rows, inputs, outputs: no whole blocks of 128."""
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


@pytest.fixture
def matrices() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Input, weight, gradient, with a few large values."""
    generator = torch.Generator().manual_seed(3)
    x, w, dy = (torch.randn(shape, generator=generator) for shape in ((T, K), (N, K), (T, N)))
    x[::7, ::5] *= 30
    return x, w * 0.02, dy * 1e-3


def results(casts: Casts, x: torch.Tensor, w: torch.Tensor, dy: torch.Tensor) -> list[torch.Tensor]:
    """Output, input gradient, weight gradient."""
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    out = product(x, w, casts, Counts())
    out.backward(dy)
    assert x.grad is not None and w.grad is not None
    return [out.detach(), x.grad, w.grad]


def eight_bits(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(values, what they are multiplied by), cast with one scale."""
    scale = torch.finfo(dtype).max / x.abs().max()
    return (x * scale).to(dtype), 1 / scale


def torch_product(a: torch.Tensor, b: torch.Tensor, a_dtype: torch.dtype, b_dtype: torch.dtype) -> torch.Tensor:
    """a [R, D] @ b [C, D]^T by torch's product of 8-bit floats."""
    (a8, a_scale), (b8, b_scale) = eight_bits(a.contiguous(), a_dtype), eight_bits(b.contiguous(), b_dtype)
    return torch._scaled_mm(a8, b8.t(), scale_a=a_scale, scale_b=b_scale, out_dtype=torch.float32)


def close(ours: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal up to the order in which a sum of fp32 numbers is taken."""
    return bool((ours - expected).abs().max() <= 2e-6 * expected.abs().max())


def test_one_scale_a_tensor_is_torchs_scaled_product(matrices: tuple[torch.Tensor, ...]) -> None:
    x, w, dy = matrices
    expected = [
        torch_product(x, w, E4M3, E4M3),
        torch_product(dy, w.t(), E5M2, E4M3),
        torch_product(dy.t(), x.t(), E5M2, E4M3),
    ]
    ours = results(CurrentCasts(PrecisionConfig(recipe="fp8_current"), None), *matrices)
    assert all(close(a, b) for a, b in zip(ours, expected, strict=True))
    assert not close(ours[0], x @ w.t())


@pytest.mark.parametrize(
    ("recipe", "row", "column", "weight"),
    [
        ("fp8_blockwise", Block(1, 128, largest_below), Block(128, 1, largest_below), Block(128, 128, largest_below)),
        ("mxfp8", Block(1, 32, shared_exponent), Block(32, 1, shared_exponent), None),
    ],
)
def test_blocks_lie_along_what_a_product_sums_over(
    recipe: Recipe, row: Block, column: Block, weight: Block | None, matrices: tuple[torch.Tensor, ...]
) -> None:
    def cast(matrix: torch.Tensor, block: Block) -> torch.Tensor:
        return cast_blocks(matrix, block, FORMATS["e4m3"])[0]

    x, w, dy = matrices
    expected = [
        cast(x, row) @ cast(w, weight or row).t(),
        cast(dy, row) @ cast(w, weight or column),
        cast(dy, column).t() @ cast(x, column),
    ]
    ours = results(BlockCasts(PrecisionConfig(recipe=recipe)), *matrices)
    assert all(close(a, b) for a, b in zip(ours, expected, strict=True))


def test_rows_with_scales_of_their_own_are_torchs_product_by_rows(matrices: tuple[torch.Tensor, ...]) -> None:
    """Where a block spans a row, MXFP8 is what torch computes with a power of two for each row."""
    x, w = matrices[0][:, :32].contiguous(), matrices[1][:, :32].contiguous()
    casts = BlockCasts(PrecisionConfig(recipe="mxfp8"))
    powers = [shared_exponent(m.abs().amax(1, keepdim=True), FORMATS["e4m3"]) for m in (x, w)]
    expected = torch._scaled_mm(
        (x * powers[0]).to(E4M3),
        (w * powers[1]).to(E4M3).t(),
        scale_a=1 / powers[0],
        scale_b=(1 / powers[1]).t(),
        out_dtype=torch.float32,
    )
    assert close(product(x, w, casts, Counts()), expected)


def test_gradients_in_the_format_that_is_asked_for(matrices: tuple[torch.Tensor, ...]) -> None:
    """A gradient of two magnitudes: e5m2 keeps the small one, e4m3 under one scale does not."""
    x, w, dy = matrices
    dy = torch.where(torch.arange(T)[:, None] % 2 == 0, dy, dy * 2.0**-22)
    five, four = (
        results(CurrentCasts(PrecisionConfig(recipe="fp8_current", gradients=name), None), x, w, dy)[1]
        for name in ("auto", "e4m3")
    )
    assert five[1::2].any() and not four[1::2].any()


def test_a_frozen_weight_takes_no_gradient(matrices: tuple[torch.Tensor, ...]) -> None:
    x, w, dy = matrices
    x.requires_grad_()
    product(x, w, CurrentCasts(PrecisionConfig(recipe="fp8_current"), None), Counts()).backward(dy)
    assert x.grad is not None and w.grad is None


def test_what_is_lost_is_counted_by_operand(matrices: tuple[torch.Tensor, ...]) -> None:
    x, w, dy = matrices
    counts = Counts()
    casts = CurrentCasts(PrecisionConfig(recipe="fp8_current"), None)
    product(x, w, casts, counts)
    assert not counts.lost
    counts.start()
    x[0, 0] = 1e-12
    product(x.requires_grad_(), w, casts, counts).backward(dy)
    assert {name: len(lost) for name, lost in counts.lost.items()} == {"input": 1, "weight": 1, "gradient": 1}
    assert int(counts.lost["input"][0].underflow) >= 1 and counts.lost["gradient"][0].values == T * N
    # The largest value, scaled to the format's largest, may lie a rounding above it: that is no overflow.
    assert not any(int(lost[0].overflow) for lost in counts.lost.values())
