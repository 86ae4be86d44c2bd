"""Packs hold every sample once, keep both limits, and come close to the lower bound."""

import time

import numpy as np
import numpy.typing as npt
import pytest

from megatron_nmm.data.packing import Limits, lower_bound, pack

Sizes = npt.NDArray[np.int64]


def _check(tokens: Sizes, patches: Sizes, limits: Limits) -> list[list[int]]:
    bins = pack(tokens, patches, limits)
    assert sorted(sample for members in bins for sample in members) == list(range(len(tokens)))
    for members in bins:
        assert members and tokens[members].sum() <= limits.tokens
        assert limits.patches is None or patches[members].sum() <= limits.patches
    assert len(bins) >= lower_bound(tokens, patches, limits)
    return bins


def _plain_best_fit(tokens: Sizes, limit: int) -> int:
    """Packs that best fit decreasing opens, one sample at a time."""
    rooms: list[int] = []
    for size in sorted(tokens.tolist(), reverse=True):
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - size)
        else:
            rooms.append(limit - size)
    return len(rooms)


@pytest.mark.parametrize("seed", range(20))
def test_random_sizes_under_both_limits(seed: int) -> None:
    random = np.random.RandomState(seed)
    count, limit = random.randint(1, 300), random.randint(5, 200)
    tokens = random.randint(1, limit + 1, size=count).astype(np.int64)
    patches = np.minimum(random.randint(0, 60, size=count), tokens // 2).astype(np.int64)
    _check(tokens, patches, Limits(limit, int(max(1, patches.max(), limit // 3))))
    assert len(_check(tokens, patches, Limits(limit))) == _plain_best_fit(tokens, limit)


def test_exact_fits_reach_the_bound() -> None:
    tokens = np.array([60, 40, 70, 30, 50, 50, 99, 1], dtype=np.int64)
    assert len(_check(tokens, np.zeros(8, np.int64), Limits(100))) == 4


def test_patches_can_be_what_fills_a_pack() -> None:
    tokens, patches = np.full(10, 10, np.int64), np.array([8] * 5 + [0] * 5, dtype=np.int64)
    assert len(_check(tokens, patches, Limits(100, 8))) == 5


def test_no_samples_no_packs() -> None:
    assert pack(np.zeros(0, np.int64), np.zeros(0, np.int64), Limits(10)) == []


def test_a_sample_that_cannot_fit_is_a_fault_of_the_caller() -> None:
    with pytest.raises(AssertionError, match="a sample larger than a pack"):
        pack(np.array([11]), np.array([0]), Limits(10))


def test_many_samples_are_packed_tightly_in_little_time() -> None:
    random = np.random.RandomState(0)
    count = 100_000
    text = np.clip(random.lognormal(4.5, 1.0, count), 4, 2048).astype(np.int64)
    captions = (256 + random.randint(5, 81, count)).astype(np.int64)
    tokens = np.concatenate([text, captions])
    patches = np.concatenate([np.zeros(count, np.int64), np.full(count, 256, np.int64)])
    limits = Limits(2048, 1536)
    start = time.perf_counter()
    bins = _check(tokens, patches, limits)
    assert time.perf_counter() - start < 10
    assert len(bins) / lower_bound(tokens, patches, limits) < 1.005
