"""What is told of a mixture before a run is what the run then reads."""

from collections import Counter

import numpy as np
import pytest

from megatron_nmm.data.forecast import WINDOW, course, forecast, realised
from megatron_nmm.data.mixture import Mixture, Portion

PORTIONS = [
    Portion("few", 10, 1, max_epochs=2, counts=np.full(10, 4)),
    Portion("many", 1000, 3, counts=np.arange(1, 1001) % 3 + 1),
]
"""At 4 and 2 units a pack, 1 to 3 of the units are 1 to 6 of the packs."""


def test_the_forecast_is_what_is_drawn() -> None:
    mixture = Mixture(PORTIONS, seed=2)
    few, many = forecast(mixture, 500)
    drawn = Counter(mixture[number].source for number in range(500))
    assert (few.drawn, many.drawn) == (drawn[0], drawn[1]) == (20, 480)
    assert (few.asked, many.asked) == (0.25, 0.75)
    assert (few.of_packs, many.of_packs) == pytest.approx((1 / 7, 6 / 7), abs=1e-4)
    assert (few.read, many.read) == pytest.approx((80 / 1040, 960 / 1040), rel=1e-2)
    assert (few.epochs, many.epochs) == (2, 0.48)
    last = max(number for number in range(500) if mixture[number].source == 0)
    assert (few.used_up, many.used_up) == (last + 1, None)
    assert forecast(mixture, last)[0].used_up is None


def test_a_finite_run_is_told_to_its_end() -> None:
    mixture = Mixture([Portion("a", 10, max_epochs=1), Portion("b", 20, max_epochs=0.5)], seed=0)
    assert [row.drawn for row in forecast(mixture, 1000)] == [10, 10]
    assert course(mixture, 1000).consumed[-1] == 20


def test_the_course_changes_where_a_source_ends() -> None:
    mixture = Mixture(PORTIONS, seed=2)
    found = course(mixture, 500, points=7)
    (end,) = mixture.turns.used_up.values()
    assert end in found.consumed and found.consumed[0] == 0 and found.consumed[-1] == 500
    for at, shares in zip(found.consumed[:-1], found.shares, strict=True):
        assert shares.tolist() == ([0.25, 0.75] if at < end else [0, 1])
    assert found.epochs[-1].tolist() == [2, 0.48] and found.epochs[0].tolist() == [0, 0]


def test_what_is_drawn_is_weighed() -> None:
    told: list[int] = []
    unlimited = [Portion(p.name, p.packs, p.weight, counts=p.counts) for p in PORTIONS]
    found = realised(Mixture(unlimited, seed=0), WINDOW + 500, told.append)
    assert (found.packs, found.window) == (WINDOW + 500, WINDOW)
    assert found.shares == pytest.approx((0.25, 0.75), abs=0.001)
    assert 0 < max(found.worst) < 0.001
    assert told == sorted(told) and len(told) == 11


def test_weighing_stops_where_shares_change() -> None:
    mixture = Mixture(PORTIONS, seed=2)
    found = realised(mixture, WINDOW, lambda done: None)
    assert found.packs == found.window == mixture.turns.used_up[0]


def test_a_mixture_that_is_off_is_seen() -> None:
    """A source whose heavy packs all stand at its end, in an order that is not spread."""
    mixture = Mixture([Portion("a", 400, counts=np.repeat([1, 9], 200)), Portion("b", 400, counts=np.full(400, 5))], 0)
    mixture._ranked[0] = np.zeros(400, dtype=np.int64)  # every visit finds the lightest pack
    assert max(realised(mixture, 300, lambda done: None).worst) > 0.3
