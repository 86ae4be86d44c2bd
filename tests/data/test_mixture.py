"""The mixture keeps its shares in every stretch, visits each pack once an epoch, and needs no state."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from megatron_nmm.data.mixture import Mixture, Place, Portion, epochs
from megatron_nmm.errors import ConfigError

P1 = (27, 11.25, 6.75, 45, 10)
WINDOW = 10_000
"""Packs over which shares are exact to 0.1 %."""


def _portions(sizes: Sequence[int], weights: Sequence[float], **values: object) -> list[Portion]:
    """Sources a, b, ..."""
    return [
        Portion(chr(97 + n), size, weight, **values)  # type: ignore[arg-type]
        for n, (size, weight) in enumerate(zip(sizes, weights, strict=True))
    ]


def _places(mixture: Mixture, packs: int) -> list[Place]:
    start = mixture.turns.start
    return [mixture[number] for number in range(start, start + packs)]


def _text(packs: int, most: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Samples of packs of text as packing leaves them: few documents in most, up to ``most`` in some."""
    return np.ceil(random.lognormal(0.7, 0.8, packs)).clip(1, most).astype(np.int64)


def _worst_share(mixture: Mixture, first: int, packs: int) -> float:
    """Farthest that any source's share is from the one asked for, over all windows of ``packs`` packs."""
    held = np.zeros((packs, len(mixture.portions)))
    for number in range(packs):
        place = mixture[first + number]
        counts = mixture.portions[place.source].counts
        held[number, place.source] = 1 if counts is None else counts[place.pack]
    before = np.concatenate([np.zeros((1, held.shape[1])), held.cumsum(0)])
    windows = before[WINDOW:] - before[:-WINDOW]
    asked = np.array(mixture.weights) / sum(mixture.weights)
    return float(np.abs(windows / windows.sum(1, keepdims=True) - asked).max())


def test_shares_of_packs_are_exact_in_every_window() -> None:
    assert _worst_share(Mixture(_portions([10**9] * 5, P1), seed=3), 7, 13_000) <= 2 / WINDOW


@pytest.mark.parametrize(("seed", "first"), [(0, 0), (1, 123_456_789), (2, 41_000)])
def test_shares_of_samples_are_exact_in_every_window(seed: int, first: int) -> None:
    random = np.random.default_rng(seed)
    captions, documents = random.integers(2, 4, 9_000), random.integers(1, 3, 30_000)
    counts = [captions, captions[:4000], captions[:500], documents, _text(20_000, 28, random)]
    portions = [Portion(str(n), len(c), w, counts=c) for n, (c, w) in enumerate(zip(counts, P1, strict=True))]
    assert _worst_share(Mixture(portions, seed), first, 12_500) < 0.001
    # A plain shuffle would not do: 1,300 packs of text have a standard error of more than 1 % of their 10 %.
    assert counts[4].std() / counts[4].mean() / np.sqrt(1300) > 0.015


def test_a_crowded_pack_moves_a_share_by_itself_and_no_more() -> None:
    text, captions = _text(20_000, 400, np.random.default_rng(3)), np.full(20_000, 3)
    text[::500] = 400
    mixture = Mixture([Portion("text", 20_000, counts=text), Portion("captions", 20_000, counts=captions)], seed=0)
    assert _worst_share(mixture, 0, 15_000) < 400 / (WINDOW * 3)


@pytest.mark.parametrize("first", [0, 59_000])
def test_shares_of_tokens_are_exact_in_every_window(first: int) -> None:
    random = np.random.default_rng(5)
    full, captions = random.integers(1000, 1025, 40_000), 3 * random.integers(261, 337, 20_000)
    portions = [Portion("full", 40_000, 1, counts=full), Portion("captions", 20_000, 1, counts=captions)]
    mixture = Mixture(portions, seed=0)
    assert _worst_share(mixture, first, 12_500) < 0.0005
    drawn = mixture.drawn(12_000)
    assert drawn[1] / drawn[0] == pytest.approx(full.mean() / captions.mean(), rel=1e-3)


def test_temperature_brings_shares_closer() -> None:
    shares = [Mixture(_portions([50, 50], (16, 1)), 0, t).drawn(10_000)[1] / 10_000 for t in (0.5, 1, 2, 1e9)]
    assert shares == pytest.approx([1 / 257, 1 / 17, 1 / 5, 1 / 2], abs=1e-3)


@pytest.mark.parametrize("counts", [None, np.arange(1, 14)])
def test_each_epoch_visits_every_pack_once_in_its_own_order(counts: npt.NDArray[np.int64] | None) -> None:
    mixture = Mixture([Portion("a", 7, 0.4), Portion("b", 13, 0.6, counts=counts)], seed=5)
    visited: dict[tuple[int, int], list[int]] = {}
    for place in _places(mixture, 2000):
        visited.setdefault((place.source, place.epoch), []).append(place.pack)
    for (source, epoch), packs in visited.items():
        if epoch < max(e for s, e in visited if s == source):
            assert sorted(packs) == list(range((7, 13)[source]))
    assert visited[1, 0] != visited[1, 1] != visited[1, 2]


def test_order_is_a_function_of_seed_and_number_alone() -> None:
    first, again, other = (Mixture(_portions([50, 60], (1, 2)), seed=seed) for seed in (3, 3, 4))
    numbers = [999_999, 0, 17, 123_456_789_012, 18]
    assert [first[number] for number in numbers] == [again[number] for number in reversed(numbers)][::-1]
    assert [first[number] for number in range(50)] != [other[number] for number in range(50)]


@pytest.mark.parametrize("consumed", [0, 1, 99, 100, 101, 12_345])
def test_drawn_and_epochs_count_what_was_handed_out(consumed: int) -> None:
    mixture = Mixture(_portions([9, 3, 27], (0.3, 0.6, 0.1)), seed=0)
    counted = Counter(place.source for place in _places(mixture, consumed))
    assert mixture.drawn(consumed) == tuple(counted[source] for source in range(3))
    assert epochs(mixture, consumed) == {"a": counted[0] / 9, "b": counted[1] / 3, "c": counted[2] / 27}


def test_far_positions_cost_nothing() -> None:
    place = Mixture(_portions([10**12], (1,)), seed=0)[10**15 + 3]
    assert place.epoch == 1000 and 0 <= place.pack < 10**12
    assert isinstance(place, Place)


def test_a_source_is_read_no_more_often_than_it_may() -> None:
    portions = [Portion("few", 10, 6, max_epochs=1.55), Portion("some", 20, 3, max_epochs=2), Portion("rest", 1000, 1)]
    mixture = Mixture(portions, seed=1)
    places = _places(mixture, 700)
    counted = Counter(place.source for place in places)
    assert counted == {0: 15, 1: 40, 2: 645}
    last = {source: max(n for n, place in enumerate(places) if place.source == source) for source in (0, 1)}
    assert mixture.turns.used_up == {source: number + 1 for source, number in last.items()}
    between = Counter(place.source for place in places[last[0] + 1 : last[1] + 1])
    # The others keep their proportions.
    assert between[1] == pytest.approx(0.75 * sum(between.values()), abs=1) and sum(between.values()) > 40
    for source, size in ((0, 10), (1, 20)):
        seen = Counter(place.pack for place in places if place.source == source)
        assert len(seen) == size and set(seen.values()) <= {1, 2}


def test_a_run_over_limited_sources_ends() -> None:
    portions = [Portion("a", 10, 1, max_epochs=1.5), Portion("b", 20, 9, max_epochs=0.25)]
    mixture = Mixture(portions, seed=0)
    assert mixture.turns.total == 20 and mixture.drawn(20) == (15, 5)
    assert len(_places(mixture, 20)) == 20
    with pytest.raises(IndexError):
        mixture[20]
    mixture.require(20)
    with pytest.raises(ConfigError) as refused:
        mixture.require(21)
    assert "the run reads 21 packs" in str(refused.value)
    assert "used up after 20 (max_epochs x packs: a 1.5 x 10, b 0.25 x 20); take fewer" in str(refused.value)
    Mixture(_portions([1], [1]), seed=0).require(10**12)


def test_a_change_of_the_mixture_goes_on_inside_the_epochs() -> None:
    random = np.random.default_rng(2)
    a, b, c = (Portion(name, 100, counts=random.integers(1, 9, 100), max_epochs=2.5) for name in "abc")
    before = Mixture([a, b], seed=7)
    read = _places(before, 60)
    drawn = before.drawn(60)
    # The new source comes first, and b is asked for more often: neither begins a or b anew.
    heavier = Portion("b", 100, 3.0, max_epochs=2.5, counts=b.counts)
    after = Mixture([c, a, heavier], seed=7, start=60, drawn=(0, *drawn))
    assert after.drawn(60) == (0, *drawn)
    rest = _places(after, 690)
    assert after.turns.total == 60 + 690
    for old, new in ((0, 1), (1, 2)):
        visits = [place.pack for place in read if place.source == old]
        visits += [place.pack for place in rest if place.source == new]
        assert len(visits) == 250
        assert sorted(visits[:100]) == sorted(visits[100:200]) == list(range(100))
        # The same order as if nothing had changed.
        alone = Mixture([(a, b)[old]], seed=7)
        assert visits == [alone[number].pack for number in range(250)]


def test_two_sources_of_the_same_packs_have_two_orders() -> None:
    one = Portion("text-1", 40, key="plan")
    mixture = Mixture([one, Portion("text-2", 40, key="plan")], seed=0)
    orders = [[place.pack for place in _places(mixture, 80) if place.source == source] for source in (0, 1)]
    assert orders[0] != orders[1]


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("portions", "message"),
    [
        ([], "the mixture has no sources; set data.train"),
        ([Portion("a", 5, 0.0)], "source 0 of the mixture has weight 0.0, and .* above 0; set data.train.0.weight"),
        ([Portion("a", 5), Portion("b", 5, -1.0)], "source 1 of the mixture has weight -1.0"),
        ([Portion("a", 5, NAN)], "weight nan"),
        ([Portion("a", 5, INFINITY)], "weight inf"),
        ([Portion("a", 5), Portion("b", 0)], r"source 1 of the mixture \(b\) has no packs; pack it again or leave it"),
        ([Portion("a", 5, max_epochs=0.0)], r"data.train.0.max_epochs 0.0 of a must be a number above 0; use none"),
        ([Portion("a", 5, max_epochs=NAN)], "max_epochs nan"),
        ([Portion("a", 5, max_epochs=0.1)], "0.1 of a is less than one of its 5 packs; use at least 0.2000"),
    ],
)
def test_impossible_mixtures_are_refused(portions: list[Portion], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Mixture(portions, seed=0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, NAN, INFINITY])
def test_an_impossible_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"data\.temperature .* must be a number above 0; use 1"):
        Mixture(_portions([5], [1]), 0, temperature)
