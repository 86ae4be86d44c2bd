"""The mixture keeps its shares at every point, visits each pack once an epoch, and needs no state."""

from collections import Counter

import numpy as np
import pytest

from megatron_nmm.data.mixture import MAX_PERIOD, Mixture, Place, whole_shares
from megatron_nmm.errors import ConfigError

P1 = (27, 11.25, 6.75, 45, 10)


@pytest.mark.parametrize("weights", [(1.0,), (0.3, 0.6, 0.1), P1, (1, 1e-3), (0.5, 0.0, 0.5), (1 / 3, 2 / 3, 1.7)])
def test_counts_are_within_one_of_their_share_after_any_number(weights: tuple[float, ...]) -> None:
    mixture = Mixture([100] * len(weights), weights, seed=1)
    sources = [mixture[number].source for number in range(3000)]
    shares = np.array(weights) / sum(weights)
    counts = np.cumsum(np.eye(len(weights))[sources], axis=0)
    expected = np.arange(1, 3001)[:, None] * shares
    assert np.abs(counts - expected).max() < 1 + 3000 / MAX_PERIOD


def test_each_epoch_visits_every_pack_once_in_its_own_order() -> None:
    mixture = Mixture([7, 13], (0.4, 0.6), seed=5)
    epochs: dict[tuple[int, int], list[int]] = {}
    for number in range(2000):
        place = mixture[number]
        epochs.setdefault((place.source, place.epoch), []).append(place.pack)
    for (source, epoch), packs in epochs.items():
        if epoch < max(e for s, e in epochs if s == source):
            assert sorted(packs) == list(range((7, 13)[source]))
    assert epochs[1, 0] != epochs[1, 1] != epochs[1, 2]


def test_order_is_a_function_of_seed_and_number_alone() -> None:
    first, again, other = (Mixture([50, 60], (1, 2), seed=seed) for seed in (3, 3, 4))
    numbers = [999_999, 0, 17, 123_456_789_012, 18]
    assert [first[number] for number in numbers] == [again[number] for number in reversed(numbers)][::-1]
    assert [first[number] for number in range(50)] != [other[number] for number in range(50)]


@pytest.mark.parametrize("consumed", [0, 1, 99, 100, 101, 12_345])
def test_drawn_counts_what_was_handed_out(consumed: int) -> None:
    mixture = Mixture([9, 9, 9], (0.3, 0.6, 0.1), seed=0)
    counted = Counter(mixture[number].source for number in range(consumed))
    assert mixture.drawn(consumed) == tuple(counted[source] for source in range(3))


def test_far_positions_cost_nothing() -> None:
    place = Mixture([10**12], (1,), seed=0)[10**15 + 3]
    assert place.epoch == 1000 and 0 <= place.pack < 10**12
    assert isinstance(place, Place)


@pytest.mark.parametrize(
    ("weights", "shares"),
    [((0.3, 0.6, 0.1), (3, 6, 1)), (P1, (108, 45, 27, 180, 40)), ((5, 0), (1, 0)), ((2e-3, 1e-3), (2, 1))],
)
def test_weights_are_taken_as_written(weights: tuple[float, ...], shares: tuple[int, ...]) -> None:
    assert whole_shares(weights) == shares


def test_a_tiny_weight_is_not_rounded_away() -> None:
    shares = whole_shares((1.0, 1e-9))
    assert shares[1] == 1 and shares[0] >= MAX_PERIOD - 1


@pytest.mark.parametrize(
    ("sizes", "weights", "message"),
    [
        ([], [], "the mixture has no sources; set data.train"),
        ([5], [0.0], "must be at least 0 with one above 0; set data.train.N.weight"),
        ([5, 5], [1.0, -1.0], "must be at least 0"),
        ([5], [float("nan")], "must be at least 0"),
        ([5, 0], [1.0, 1.0], "source 1 of the mixture has no packs; pack it again or set its weight to 0"),
    ],
)
def test_impossible_mixtures_are_refused(sizes: list[int], weights: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Mixture(sizes, weights, seed=0)
