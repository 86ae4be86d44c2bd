"""Weights become whole shares of packs: exactly where they are round numbers, within 1 in 65,536 where not."""

import sys
from fractions import Fraction

import pytest

from megatron_nmm.data.shares import MAX_PERIOD, pack_shares, tempered, whole_shares

P1 = (27, 11.25, 6.75, 45, 10)


@pytest.mark.parametrize(
    ("weights", "shares"),
    [((0.3, 0.6, 0.1), (3, 6, 1)), (P1, (108, 45, 27, 180, 40)), ((5,), (1,)), ((2e-3, 1e-3), (2, 1))],
)
def test_weights_of_packs_are_taken_as_written(weights: tuple[float, ...], shares: tuple[int, ...]) -> None:
    sizes = [100] * len(weights)
    assert pack_shares(weights, sizes, sizes) == shares


def test_a_source_of_fuller_packs_has_fewer_of_them() -> None:
    # 3 and 6 samples a pack: equal shares of samples take two packs of the first for one of the second.
    assert pack_shares((1, 1), units=(300, 600), packs=(100, 100)) == (2, 1)
    # The sizes of the sources do not matter, the means do.
    assert pack_shares((1, 1), units=(300, 60), packs=(100, 10)) == (2, 1)


def test_other_shares_are_rounded() -> None:
    asked = [Fraction(27, 4), Fraction(10**9 + 7, 10**9 + 9), Fraction(1, 3**60)]
    shares = whole_shares(asked)
    assert sum(shares) == pytest.approx(MAX_PERIOD, abs=2)
    for share, wanted in zip(shares, asked, strict=True):
        assert share / sum(shares) == pytest.approx(float(wanted / sum(asked)), abs=2 / MAX_PERIOD)
    assert shares[2] == 1  # a tiny weight is not rounded away


def test_temperature_is_a_power() -> None:
    assert tempered((3, 5), 1) == (3, 5)
    assert tempered((16, 1), 2) == pytest.approx((1, 1 / 4))
    assert tempered((16, 1), 0.5) == pytest.approx((1, 1 / 256))
    assert tempered((1e300, 1e-300), 0.01) == (1, sys.float_info.min)
