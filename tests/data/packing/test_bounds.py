"""No bound is above the fewest packs there are, and each is better than filling to the brim where it should be."""

from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_nmm.data.packing import Limits, lower_bound, pack, proved_bound
from megatron_nmm.data.packing.bounds import by_crowding, by_large, by_parts, by_sharing

LENGTH, PATCHES = 24, 12


def _partitions(samples: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Every way of putting samples into packs that keeps the limits, as (tokens, patches) of each pack."""
    if not samples:
        yield []
        return
    (tokens, patches), rest = samples[0], samples[1:]
    for packs in _partitions(rest):
        yield [*packs, (tokens, patches)]
        for number, (used, used_patches) in enumerate(packs):
            if used + tokens <= LENGTH and used_patches + patches <= PATCHES:
                yield [*packs[:number], (used + tokens, used_patches + patches), *packs[number + 1 :]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, LENGTH), st.integers(0, 3).map(lambda n: 4 * n)), min_size=1, max_size=6))
def test_no_bound_is_above_the_fewest_packs(samples: list[tuple[int, int]]) -> None:
    fewest = min(len(packs) for packs in _partitions(samples))
    sizes = np.array(samples, dtype=np.int64)
    limits = Limits(LENGTH, PATCHES)
    bound = proved_bound(sizes[:, 0], sizes[:, 1], limits)
    assert lower_bound(sizes[:, 0], sizes[:, 1], limits) <= bound <= fewest
    assert fewest <= len(pack(sizes[:, 0], sizes[:, 1], limits))


def test_filled_to_the_brim() -> None:
    tokens, patches = np.array([6, 7, 8]), np.array([5, 0, 5])
    assert lower_bound(tokens, patches, Limits(10)) == 3
    assert lower_bound(tokens, patches, Limits(100)) == 1
    assert lower_bound(tokens, patches, Limits(100, 5)) == 2


def test_three_captions_to_a_pack_whatever_is_left() -> None:
    captions = np.arange(261, 337, dtype=np.int64).repeat(10)
    assert by_parts(captions, 1024) == -(-len(captions) // 3) > -(-captions.sum() // 1024)


def test_seven_short_captions_or_six_long_ones_to_a_pack() -> None:
    """7 to a pack of 2,048 have 292 tokens on average, these have 298: some are left for packs of 6, never full."""
    captions = np.arange(261, 337, dtype=np.int64).repeat(100)
    brim = -(-int(captions.sum()) // 2048)
    assert by_parts(captions, 2048) <= brim < by_sharing(captions, 2048)
    found = len(pack(captions, np.zeros_like(captions), Limits(2048)))
    assert by_sharing(captions, 2048) <= found < 1.01 * by_sharing(captions, 2048) < 1.01 * 1.006 * brim


def test_samples_of_more_than_half_are_alone() -> None:
    assert by_large(np.array([60] * 9, dtype=np.int64), 100) == 9
    assert by_large(np.array([60] * 9 + [45] * 9 + [1] * 9, dtype=np.int64), 100) == 14


def test_long_texts_keep_images_out() -> None:
    """A text of 800 leaves no room for an image, one of 600 room for one of two: 4 + 4 / 2 of 4 / 2 + 8 / 2."""
    tokens = np.array([800] * 4 + [600] * 4 + [300] * 4, dtype=np.int64)
    patches = np.array([0] * 8 + [256] * 4, dtype=np.int64)
    assert by_crowding(tokens, patches, 1024, 512) == 8
    assert lower_bound(tokens, patches, Limits(1024, 512)) == 7
    assert len(pack(tokens, patches, Limits(1024, 512))) == 8


def test_a_bound_for_no_samples_is_nothing() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert proved_bound(none, none, Limits(10, 10)) == 0
