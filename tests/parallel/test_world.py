"""A rank's place in the job: ranks and groups of two layouts, agreements, and a rank that never comes."""

import time
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist

from megatron_nmm.config import ParallelConfig
from megatron_nmm.device.cpu import CpuDevice
from megatron_nmm.errors import ConfigError
from megatron_nmm.parallel.world import RankTimeout, World
from megatron_nmm.verify.workers import Place, WorkerPool


class Seen(NamedTuple):
    """What one rank knows about itself."""

    rank: int
    size: int
    tensor: tuple[int, tuple[int, ...]]
    """Place in the tensor group, and the job ranks of that group."""
    data: tuple[int, tuple[int, ...]]
    pipeline: tuple[int, tuple[int, ...]]
    is_main: bool
    is_first_stage: bool
    is_last_stage: bool
    data_size: int
    summed: tuple[float, float, float]
    """Sum of 10^rank over the tensor, data and pipeline group: the groups really are those ranks."""


def _look(place: Place, parallel: ParallelConfig) -> Seen:
    with place.world(parallel) as world:
        groups = world.groups.tp, world.groups.dp, world.groups.pp
        members = [tuple(dist.get_process_group_ranks(group)) for group in groups]
        sums = []
        for group in groups:
            number = torch.tensor(10.0**world.rank)
            dist.all_reduce(number, group=group)
            sums.append(number.item())
        places = world.tensor_rank, world.data_rank, world.pipeline_rank
        return Seen(
            world.rank,
            world.size,
            *zip(places, members, strict=True),  # type: ignore[arg-type]
            world.is_main,
            world.is_first_stage,
            world.is_last_stage,
            world.data_size,
            tuple(sums),  # type: ignore[arg-type]
        )


def test_tensor_2_data_2(pool: WorkerPool) -> None:
    assert pool.run(4, _look, ParallelConfig(tensor=2)) == [
        Seen(0, 4, (0, (0, 1)), (0, (0, 2)), (0, (0,)), True, True, True, 2, (11.0, 101.0, 1.0)),
        Seen(1, 4, (1, (0, 1)), (0, (1, 3)), (0, (1,)), False, True, True, 2, (11.0, 1010.0, 10.0)),
        Seen(2, 4, (0, (2, 3)), (1, (0, 2)), (0, (2,)), False, True, True, 2, (1100.0, 101.0, 100.0)),
        Seen(3, 4, (1, (2, 3)), (1, (1, 3)), (0, (3,)), False, True, True, 2, (1100.0, 1010.0, 1000.0)),
    ]


def test_pipeline_2_data_2(pool: WorkerPool) -> None:
    assert pool.run(4, _look, ParallelConfig(pipeline=2)) == [
        Seen(0, 4, (0, (0,)), (0, (0, 1)), (0, (0, 2)), True, True, False, 2, (1.0, 11.0, 101.0)),
        Seen(1, 4, (0, (1,)), (1, (0, 1)), (0, (1, 3)), False, True, False, 2, (10.0, 11.0, 1010.0)),
        Seen(2, 4, (0, (2,)), (0, (2, 3)), (1, (0, 2)), False, False, True, 2, (100.0, 1100.0, 101.0)),
        Seen(3, 4, (0, (3,)), (1, (2, 3)), (1, (1, 3)), False, False, True, 2, (1000.0, 1100.0, 1010.0)),
    ]


def _agree(place: Place) -> tuple[list[bool], object]:
    with place.world(ParallelConfig()) as world:
        flags = [world.any(False), world.any(place.rank == 1), world.any(place.rank == 0), world.any(True)]
        return flags, world.from_main({"from": place.rank, "text": "ü", "none": None}, "a greeting")


def test_all_ranks_agree(pool: WorkerPool) -> None:
    expected = ([False, True, True, True], {"from": 0, "text": "ü", "none": None})
    assert pool.run(2, _agree) == [expected, expected]


def _meet(place: Place) -> tuple[float, float]:
    """When this rank reached the barrier and when it left it; rank 1 comes late."""
    with place.world(ParallelConfig()) as world:
        world.barrier("the start")
        time.sleep(0.3 * place.rank)
        reached = time.monotonic()
        world.barrier("a late rank")
        return reached, time.monotonic()


def test_nobody_leaves_a_barrier_before_all_have_come(pool: WorkerPool) -> None:
    times = pool.run(2, _meet)
    assert min(left for _, left in times) >= max(reached for reached, _ in times)


LIMIT_S = 2.0


def _wait_for_nobody(place: Place, wait: str) -> tuple[str, float]:
    """Rank 1 stays away; rank 0 says what it was told and how long that took."""
    with place.world(ParallelConfig(time_limit_s=LIMIT_S)) as world:
        world.barrier("the beginning")
        start = time.monotonic()
        if place.rank == 1:
            time.sleep(LIMIT_S + 0.5)
            return "", 0.0
        try:
            WAITS[wait](world)
        except RankTimeout as error:
            return str(error), time.monotonic() - start
        return "nothing was raised", 0.0


def _barrier(world: World) -> None:
    world.barrier("the end of step 7")


def _message(world: World) -> None:
    with world.waiting("the sum over the data ranks"):
        dist.all_reduce(torch.ones(1), group=world.groups.dp)


WAITS = {"the end of step 7": _barrier, "the sum over the data ranks": _message}
"""What rank 0 says it waits for, and how it waits: in the job's own group and in one of megatron-core's."""


@pytest.mark.parametrize("what", WAITS)
def test_a_rank_that_never_comes_is_a_clear_message_in_time(what: str, pool: WorkerPool) -> None:
    (message, seconds), _ = pool.run(2, _wait_for_nobody, what, time_limit_s=30.0)
    assert f"rank 0 of 2 lost the job while waiting for {what} (limit {LIMIT_S:g} s" in message
    assert "parallel.time_limit_s" in message
    # Not the news that rank 1 is gone, which arrives half a second later.
    assert f"Timed out waiting {1000 * LIMIT_S:.0f}ms" in message
    assert LIMIT_S - 0.5 <= seconds <= LIMIT_S + 2.0


def _never_joined(place: Place) -> str:
    """Rank 1 does not even join."""
    if place.rank == 1:
        return ""
    try:
        with place.world(ParallelConfig(time_limit_s=LIMIT_S)):
            return "joined"
    except RankTimeout as error:
        # torch counts the group that came to nothing, and names the next one by that count: the ranks of a later job
        # would look for each other under different names. Leaving a world of one's own starts the count anew.
        with replace(place, size=1).world(ParallelConfig()):
            return str(error)


def test_a_rank_that_never_joins_is_a_clear_message(pool: WorkerPool) -> None:
    message, _ = pool.run(2, _never_joined, time_limit_s=30.0)
    assert f"rank 0 of 2 lost the job while waiting for all ranks to join (limit {LIMIT_S:g} s" in message


def test_an_environment_without_a_meeting_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(
        ConfigError, match=r"WORLD_SIZE is 2 but MASTER_ADDR is not set, .* start the job with torchrun"
    ):
        World.start(ParallelConfig(), CpuDevice(), seed=1)
