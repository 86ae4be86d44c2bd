"""The histogram of what is left answers as a plain search does, whatever was taken before."""

import random
from itertools import combinations_with_replacement

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_nmm.data.packing.pool import UNITS, Kind, Pool, patch_levels

LENGTH, LEVELS = 20, 3
KINDS = st.dictionaries(st.tuples(st.integers(1, LENGTH), st.integers(0, LEVELS)), st.integers(1, 2), min_size=1)


def _pairs(left: dict[Kind, int], tokens: int, level: int) -> list[tuple[Kind, Kind]]:
    return [
        (max(one, other), min(one, other))
        for one, other in combinations_with_replacement(left, 2)
        if one[0] + other[0] == tokens and one[1] + other[1] <= level and (one != other or left[one] >= 2)
    ]


@settings(max_examples=60, deadline=None)
@given(KINDS, st.integers(0, 2**32), st.integers(0, LENGTH), st.integers(0, LEVELS))
def test_what_fits(kinds: dict[Kind, int], seed: int, tokens: int, level: int) -> None:
    pool, left = Pool(list(kinds), list(kinds.values()), LENGTH), dict(kinds)
    for kind in random.Random(seed).sample(list(kinds), len(kinds) // 2):
        pool.take(kind, left.pop(kind))
    fitting = [kind for kind in left if kind[0] <= tokens and kind[1] <= level]
    assert bool(pool) == bool(left)
    assert pool.largest(tokens, level) == max(fitting, default=None)
    assert pool.smallest(level) == min((size for size, own in left if own <= level), default=None)
    for own in pool.levels:
        sizes = [size for size, place in left if place == own]
        assert pool.smallest_at(own) == min(sizes, default=None)
        assert pool.largest_at(tokens, own) == max(((s, own) for s in sizes if s <= tokens), default=None)
    found, pairs = pool.pair(tokens, level), _pairs(left, tokens, level)
    assert (found is None) == (not pairs)
    if found:
        assert (max(found), min(found)) in pairs and max(found)[0] == max(one[0] for one, _ in pairs)


def test_a_pair_of_equal_samples_needs_two() -> None:
    assert Pool([(5, 0)], [1], 20).pair(10, 0) is None
    assert Pool([(5, 0)], [2], 20).pair(10, 0) == ((5, 0), (5, 0))
    assert Pool([(5, 0), (5, 1)], [1, 1], 20).pair(10, 1) in {((5, 0), (5, 1)), ((5, 1), (5, 0))}


def test_few_patch_counts_are_exact_levels() -> None:
    levels, most = patch_levels(np.array([0, 256, 512, 256]), 1000)
    assert levels.tolist() == [0, 1, 2, 1] and most == 3
    levels, most = patch_levels(np.array([0, 0]), 1000)
    assert levels.tolist() == [0, 0] and most == 1


def test_many_patch_counts_are_rounded_up() -> None:
    patches = np.arange(0, 1001)
    levels, most = patch_levels(patches, 1000)
    assert most == UNITS == levels.max() and levels[0] == 0 and levels[1] == 1
    assert (levels * 1000 >= patches * most).all()
