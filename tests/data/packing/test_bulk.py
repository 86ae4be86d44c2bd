"""Packs hold every sample once, keep both limits, are the same every time, and are close to the fewest possible."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_nmm.data.packing import Bins, Limits, Sizes, lower_bound, pack, proved_bound

LENGTH = 64


@st.composite
def corpora(draw: st.DrawFn) -> tuple[Sizes, Sizes, Limits]:
    """Tokens and patches of samples that fit the limits; patches in steps of 1 to 16."""
    most = draw(st.one_of(st.none(), st.integers(16, 48)))
    step = draw(st.integers(1, 16))
    pairs = draw(
        st.lists(
            st.tuples(st.integers(1, LENGTH), st.integers(0, (48 if most is None else most) // step)),
            min_size=1,
            max_size=60,
        )
    )
    sizes = np.array(pairs, dtype=np.int64)
    return sizes[:, 0], sizes[:, 1] * step, Limits(LENGTH, most)


def _check(tokens: Sizes, patches: Sizes, limits: Limits) -> Bins:
    bins = pack(tokens, patches, limits)
    assert sorted(bins.samples.tolist()) == list(range(len(tokens)))
    assert bins.starts[0] == 0 and bins.starts[-1] == len(tokens) and (np.diff(bins.starts) > 0).all()
    for number in range(len(bins)):
        assert tokens[bins[number]].sum() == bins.totals(tokens)[number] <= limits.tokens
        assert limits.patches is None or patches[bins[number]].sum() <= limits.patches
    return bins


@settings(max_examples=40, deadline=None)
@given(corpora())
def test_every_sample_once_and_no_limit_broken(corpus: tuple[Sizes, Sizes, Limits]) -> None:
    bins = _check(*corpus)
    assert len(bins) >= proved_bound(*corpus)
    again = pack(*corpus)
    assert np.array_equal(bins.samples, again.samples) and np.array_equal(bins.starts, again.starts)


def test_exact_fits_reach_the_bound() -> None:
    tokens = np.array([60, 40, 70, 30, 50, 50, 99, 1], dtype=np.int64)
    assert len(_check(tokens, np.zeros(8, np.int64), Limits(100))) == 4


def test_patches_can_be_what_fills_a_pack() -> None:
    tokens, patches = np.full(10, 10, np.int64), np.array([8] * 5 + [0] * 5, dtype=np.int64)
    assert len(_check(tokens, patches, Limits(100, 8))) == 5


def test_without_a_limit_patches_do_not_matter() -> None:
    tokens = np.full(10, 10, np.int64)
    assert len(_check(tokens, np.full(10, 1000, np.int64), Limits(100))) == 1


def test_many_different_patch_counts_keep_the_limit() -> None:
    random = np.random.RandomState(1)
    patches = random.randint(1, 1001, 400).astype(np.int64)
    tokens = patches // 4 + random.randint(1, 40, 400)
    bins = _check(tokens, patches, Limits(1000, 1000))
    assert bins.totals(patches).max() > 980 and len(bins) < 1.05 * lower_bound(tokens, patches, Limits(1000, 1000))


def test_one_pattern_serves_a_million_equal_samples() -> None:
    seen: list[int] = []
    bins = pack(np.full(1_000_000, 300), np.full(1_000_000, 256), Limits(2048, 1024), seen.append)
    assert len(bins) == 250_000 and seen == [1_000_000]


def test_no_samples_no_packs() -> None:
    assert len(pack(np.zeros(0, np.int64), np.zeros(0, np.int64), Limits(10))) == 0
    assert len(pack(np.zeros(0, np.int64), np.zeros(0, np.int64), Limits(10, 5))) == 0


@pytest.mark.parametrize(
    ("tokens", "patches", "message"),
    [(11, 0, "without tokens or larger"), (0, 0, "without tokens"), (1, 6, "more patches than a pack")],
)
def test_a_sample_that_cannot_fit_is_a_fault_of_the_caller(tokens: int, patches: int, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        pack(np.array([tokens]), np.array([patches]), Limits(10, 5))


def _mixture(texts: int, captions: int) -> tuple[Sizes, Sizes]:
    """Log-normal texts and captions of an image of 256 patches, seeded."""
    random = np.random.RandomState(0)
    text = np.clip(random.lognormal(np.log(250), 1.0, texts), 4, 1024).astype(np.int64)
    caption = 256 + random.randint(5, 81, captions)
    patches = np.repeat([0, 256], [texts, captions])
    return np.concatenate([text, caption]), patches


@pytest.mark.parametrize(
    ("length", "most_patches", "texts", "captions", "above"),
    [
        (1024, None, 10_000, 10_000, 0.002),
        (1024, 512, 10_000, 10_000, 0.002),
        (2048, 1024, 10_000, 10_000, 0.001),
        (8192, 4096, 10_000, 10_000, 0.001),
        (1024, None, 0, 20_000, 0.0),
        (2048, None, 0, 20_000, 0.007),
        (8192, 2048, 10_000, 10_000, 0.0),
    ],
)
def test_packs_are_nearly_as_few_as_possible(
    length: int, most_patches: int | None, texts: int, captions: int, above: float
) -> None:
    tokens, patches = _mixture(texts, captions)
    limits = Limits(length, most_patches)
    assert len(pack(tokens, patches, limits)) <= proved_bound(tokens, patches, limits) * (1 + above)


def test_packs_are_even_where_that_costs_nothing() -> None:
    tokens, patches = _mixture(10_000, 10_000)
    bins = pack(tokens, patches, Limits(8192, 4096))
    samples = np.diff(bins.starts)
    assert np.percentile(samples, 99) < 1.5 * samples.mean()
    assert np.percentile(bins.totals(patches), 5) > 0.7 * bins.totals(patches).mean()
