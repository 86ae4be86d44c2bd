"""The spread order visits every pack once, and any stretch of it looks like the whole."""

import numpy as np
import pytest

from megatron_nmm.data.spread import Spread, ranking


@pytest.mark.parametrize("size", [1, 2, 3, 5, 31, 64, 100, 1023])
def test_every_pack_is_visited_once(size: int) -> None:
    orders = [[Spread(np.arange(size), 3, epoch)[visit] for visit in range(size)] for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(size))
    if size > 30:
        assert orders[0] != orders[1] != orders[2]


def test_any_aligned_stretch_takes_one_of_every_part() -> None:
    order = [Spread(np.arange(4096), 5)[visit] for visit in range(4096)]
    for length in (2, 64, 1024):
        parts = np.array(order).reshape(-1, length) // (4096 // length)
        assert (np.sort(parts) == np.arange(length)).all()


def test_any_stretch_has_nearly_the_mean() -> None:
    counts = np.random.default_rng(0).geometric(0.1, 5000)
    order = Spread(ranking(counts), 1, 2)
    total = np.concatenate([[0], np.cumsum([counts[order[visit]] for visit in range(5000)])])
    for length in (10, 300, 2500):
        stretches = (total[length:] - total[:-length]) - length * counts.mean()
        assert np.abs(stretches).max() < 1.5 * counts.max()
    # A shuffle is off by more than that over the longest of them.
    assert 3 * counts.std() * np.sqrt(2500 / 2) > 1.5 * counts.max()


def test_packs_in_line_have_nothing_else_in_common() -> None:
    """Which pack of a part is taken is chance: neighbours of one epoch are not neighbours in the next."""
    first, second = (Spread(np.arange(1000), epoch) for epoch in (0, 1))
    pairs = {frozenset((first[visit], first[visit + 1])) for visit in range(999)}
    again = sum(frozenset((second[visit], second[visit + 1])) in pairs for visit in range(999))
    assert again < 20


def test_the_order_stays_what_it_is() -> None:
    """Runs are continued with it: these numbers may never change."""
    assert [Spread(np.arange(11), 1234, 5)[visit] for visit in range(11)] == [
        5,
        1,
        10,
        3,
        7,
        2,
        8,
        4,
        6,
        0,
        9,
    ]
