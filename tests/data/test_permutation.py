"""The keyed order visits every element once, differs by key, and is the same one for ever."""

import numpy as np
import pytest

from megatron_nmm.data.permutation import Permutation


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_every_element_once_and_both_forms_agree(size: int) -> None:
    order = Permutation(size, 7, 0, 3)
    assert sorted(order.all()) == list(range(size))
    assert [order[index] for index in range(size)] == order.all().tolist()


def test_keys_give_unrelated_orders() -> None:
    first, second = Permutation(10_000, 1, 0, 0).all(), Permutation(10_000, 1, 0, 1).all()
    assert (first == second).sum() < 10
    # Neighbours are spread as in a random order: their mean distance is a third of the size.
    assert abs(np.abs(np.diff(first)).mean() / 10_000 - 1 / 3) < 0.02
    assert abs(np.corrcoef(first, np.arange(10_000))[0, 1]) < 0.05


def test_every_place_is_equally_likely() -> None:
    first_elements = [Permutation(8, seed)[0] for seed in range(4000)]
    counts = np.bincount(first_elements, minlength=8)
    assert counts.min() > 420 and counts.max() < 580


def test_the_order_never_changes() -> None:
    # Runs are resumed by position alone: another order here would silently change their data.
    assert [Permutation(100, 1234, 0, 0)[index] for index in range(8)] == [66, 16, 0, 24, 57, 52, 87, 23]
