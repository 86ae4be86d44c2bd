"""The collectives' self-test measures what is right and catches what is wrong."""

from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch

from megatron_nmm.device.health import selftest
from megatron_nmm.verify.workers import Place, WorkerPool

SMALL = {"cpu": (4096,), "gpu": (4096,)}


def _measured(place: Place, broken: str) -> list[selftest.Measured]:
    """The self-test in a small size; the ``broken`` operation gives rank 1 a wrong last value."""
    operations = dict(selftest.OPERATIONS)
    if broken:
        run = operations[broken].run

        def wrong_on_rank_1(*arguments: Any) -> torch.Tensor:
            result: torch.Tensor = run(*arguments)
            result[-1] += place.rank
            return result

        operations[broken] = replace(operations[broken], run=wrong_on_rank_1)
    with mock.patch.object(selftest, "SIZES", SMALL), mock.patch.object(selftest, "OPERATIONS", operations):
        return selftest._measure_all(place.rank, place.size, place.rank, f"file://{place.store}")


@pytest.mark.parametrize("ranks", [2, 3])
def test_all_are_right(ranks: int, pool: WorkerPool) -> None:
    first, *others = pool.run(ranks, _measured, "")
    assert [row.operation for row in first] == list(selftest.OPERATIONS)
    assert all(row.right and row.seconds > 0 and row.ranks == ranks for row in first)
    assert {row.bytes for row in first} == {4096 // 4 // ranks * ranks * 4}
    assert all(other == first for other in others)


def test_a_wrong_value_on_one_rank_is_noticed_on_all(pool: WorkerPool) -> None:
    for rows in pool.run(2, _measured, "all-to-all"):
        assert [row.operation for row in rows if not row.right] == ["all-to-all"]


def test_bandwidth_is_what_a_link_carries() -> None:
    row = selftest.Measured("all-reduce", 4, 10**9, 0.5, True, selftest.OPERATIONS["all-reduce"].link_share(4))
    assert row.gb_per_second == pytest.approx(1.5 / 0.5)


def test_processes_of_its_own() -> None:
    rows = selftest.on_this_machine(1)
    assert len(rows) == (len(selftest.OPERATIONS) - 1) * 2 and all(row.right for row in rows)


def test_processes_that_do_not_answer() -> None:
    with pytest.raises(RuntimeError, match=r"no answer of 1 processes within 0\.01 s"):
        selftest.on_this_machine(1, limit_s=0.01)
