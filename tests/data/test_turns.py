"""Turns keep to the shares at every point, and end where the limits say, without replaying what came before."""

from collections import Counter

import numpy as np
import pytest

from megatron_nmm.data.turns import Turns


@pytest.mark.parametrize("shares", [(1,), (3, 6, 1), (108, 45, 27, 180, 40), (1000, 1), (21845, 43690, 1)])
def test_counts_are_within_one_of_their_share_after_any_number(shares: tuple[int, ...]) -> None:
    turns = Turns(shares)
    sources = [turns[number][0] for number in range(3000)]
    counts = np.cumsum(np.eye(len(shares))[sources], axis=0)
    expected = np.arange(1, 3001)[:, None] * np.array(shares) / sum(shares)
    assert np.abs(counts - expected).max() < 1


@pytest.mark.parametrize(
    ("limits", "start", "drawn"),
    [
        (None, 0, None),
        (None, 500, (7, 400, 93)),
        ((30, None, 4), 0, None),
        ((30, 70, 4), 0, None),
        ((30, 70, 4), 25, (20, 1, 4)),
        ((30, 30, 10), 0, None),  # the shares of 3, 3 and 1: two sources end together
        ((30, None, 4), 9, (40, 0, 0)),  # a limit that was lowered below what is read
    ],
)
def test_any_place_is_what_counting_from_the_start_finds(
    limits: tuple[int | None, ...] | None, start: int, drawn: tuple[int, ...] | None
) -> None:
    turns = Turns((3, 3, 1), limits, start, drawn)
    counted = Counter(dict(enumerate(drawn or (0, 0, 0))))
    end = start + 300 if turns.total is None else turns.total
    last: dict[int, int] = {}
    for number in range(start, end):
        assert turns.drawn(number) == (counted[0], counted[1], counted[2])
        source, before = turns[number]
        assert before == counted[source]
        counted[source] += 1
        last[source] = number + 1
    assert turns.drawn(end) == (counted[0], counted[1], counted[2])
    for source, limit in enumerate(limits or ()):
        if limit is not None and (turns.total is not None or source in turns.used_up):
            assert counted[source] == max(limit, (drawn or (0, 0, 0))[source])
            assert turns.used_up[source] == last.get(source, start)
    assert (turns.total is None) == (limits is None or None in limits)


def test_all_used_up_before_the_start_is_an_empty_run() -> None:
    turns = Turns((1, 2), (3, 4), start=7, drawn=(3, 4))
    assert turns.total == 7 and turns.drawn(7) == (3, 4)


@pytest.mark.parametrize("number", [4, 12])
def test_numbers_outside_of_the_run_are_refused(number: int) -> None:
    turns = Turns((1,), (10,), start=5, drawn=(3,))
    assert turns.total == 12
    with pytest.raises(IndexError, match=f"pack {number} of a run of packs 5 to 12"):
        turns[number]


def test_a_far_place_behind_a_limit_costs_nothing() -> None:
    turns = Turns((1, 9), (10**14, None))
    assert 10**15 - 10 < turns.used_up[0] <= 10**15
    assert turns[10**16] == (1, 10**16 - 10**14)
