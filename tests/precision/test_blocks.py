"""Scales by block against a loop over single values, at whole and at cut blocks; what is lost is counted."""

import math

import pytest
import torch

from megatron_nmm.precision.blocks import Block, cast_blocks, largest_below, shared_exponent
from megatron_nmm.precision.formats import FORMATS
from tests.precision import plain

E4M3 = FORMATS["e4m3"]


@pytest.mark.parametrize(
    ("amax", "power"),
    [(448.0, 1.0), (449.0, 0.5), (1.0, 256.0), (0.875, 512.0), (0.876, 256.0), (0.0, 1.0), (math.inf, 1.0)],
)
def test_blocks_of_128_take_the_power_of_two_below(amax: float, power: float) -> None:
    assert largest_below(torch.tensor([amax]), E4M3).item() == power


@pytest.mark.parametrize(
    ("amax", "power"), [(448.0, 1.0), (449.0, 0.5), (224.0, 2.0), (1.0, 256.0), (2**-100, 2**108), (1e-38, 2**126)]
)
def test_mxfp8_takes_the_exponent_above(amax: float, power: float) -> None:
    assert shared_exponent(torch.tensor([amax]), E4M3).item() == power


def test_a_block_of_mxfp8_with_an_infinity_is_nan() -> None:
    x = torch.ones(1, 64)
    x[0, 5] = math.inf
    values, _ = cast_blocks(x, Block(1, 32, shared_exponent), E4M3)
    assert values[0, :32].isnan().all() and (values[0, 32:] == 1).all()


@pytest.mark.parametrize(("r", "c"), [(1, 4), (4, 1), (4, 4), (1, 100)])
@pytest.mark.parametrize("scale", [largest_below, shared_exponent])
def test_as_one_value_after_the_other(r: int, c: int, scale) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(6, 10, generator=generator) * 10.0 ** torch.randint(-3, 4, (6, 10), generator=generator)
    x[:, 3] = 0
    values, _ = cast_blocks(x, Block(r, c, scale), E4M3)
    assert values.tolist() == plain.block_cast(x.tolist(), r, c, exponent_up=scale is shared_exponent)


def test_what_is_lost_is_counted() -> None:
    x = torch.tensor([[448.0, 2**-9, 2**-11, 0.0, 1e-4, -1e-5]])
    _, lost = cast_blocks(x, Block(1, 4, largest_below), E4M3, count=True)
    assert lost is not None
    assert (lost.values, int(lost.underflow), int(lost.overflow)) == (6, 1, 0)


def test_a_matrix_without_rows_has_no_blocks() -> None:
    values, _ = cast_blocks(torch.zeros(0, 8), Block(1, 4, shared_exponent), E4M3)
    assert values.shape == (0, 8)
