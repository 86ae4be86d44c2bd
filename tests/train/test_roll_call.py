"""A rank that never comes, or is gone: one rank tells where all of them stand, the others keep quiet."""

import io
import os
import signal
import time
from contextlib import contextmanager, redirect_stderr
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from megatron_nmm.config import ParallelConfig
from megatron_nmm.device.cpu import CpuDevice
from megatron_nmm.errors import NMMError
from megatron_nmm.parallel.world import RankTimeout, World
from megatron_nmm.train import roll_call
from megatron_nmm.train.main import refuse_once
from megatron_nmm.train.roll_call import RollCall
from megatron_nmm.verify.workers import Place, WorkerError, WorkerPool

LIMIT_S = 2.0
Told = tuple[str, bool | None, float]
"""The error a rank ended with, whether it speaks, and after how many seconds."""


def _lost(world: World, work: Any) -> Told:
    start = time.monotonic()
    try:
        with RollCall(world) as watched:
            watched.step = 37
            work()
    except RankTimeout as error:
        refuse_once(error)  # as a program ends; what the roll call has printed is not printed again
        return str(error), error.speaks, time.monotonic() - start
    return "", None, time.monotonic() - start


def _sum(world: World) -> None:
    dist.all_reduce(torch.ones(5), group=world.groups.dp)


def _one_reads(place: Place) -> Told:
    """The last rank stays away from a sum of all."""
    with place.world(ParallelConfig(time_limit_s=LIMIT_S)) as world:
        world.barrier("the start")
        last = place.rank == place.size - 1
        return _lost(world, (lambda: time.sleep(LIMIT_S + 2)) if last else (lambda: _sum(world)))


def test_a_time_out_names_rank_step_and_operation_of_everybody(pool: WorkerPool) -> None:
    first, second, away = pool.run(3, _one_reads, time_limit_s=30.0)
    assert away[0] == ""
    speaker, other = (first, second) if first[1] else (second, first)
    assert (speaker[1], other[1]) == (True, False)
    rank = 0 if speaker is first else 1
    headline, elsewhere, *rest = speaker[0].splitlines()
    assert headline == (
        f"rank {rank} of 3, step 37, all_reduce of 5 float32 among ranks 0-2: waited {LIMIT_S:g} s, the limit "
        "(parallel.time_limit_s)"
    )
    assert elsewhere.startswith("  rank 2: step 37, no collective, test_roll_call.py:"), elsewhere
    assert elsewhere.endswith(("for 2 s", "for 3 s"))
    assert rest[0].startswith(f"  rank {1 - rank}: step 37, all_reduce of 5 float32 among ranks 0-2, ")
    assert "raise parallel.time_limit_s" in rest[1] and "torchrun --max-restarts" in rest[1]
    assert max(speaker[2], other[2]) < LIMIT_S + roll_call.PATIENCE_S
    assert len(other[0].splitlines()) == 1


def _one_dies(place: Place, folder: str) -> None:
    with place.world(ParallelConfig()) as world:
        world.barrier("the start")
        if place.rank == 1:
            with RollCall(world):
                time.sleep(1.0)
                os.kill(os.getpid(), signal.SIGKILL)
        with redirect_stderr(io.StringIO()) as printed:
            told = _lost(world, lambda: _sum(world))
        with open(os.path.join(folder, "told"), "w") as file:
            file.write(f"{told[1]} {told[2]:.1f}\n{printed.getvalue().count(told[0])}\n{told[0]}")


def test_a_killed_rank_is_named_at_once(tmp_path: Any) -> None:
    with WorkerPool(2) as victims, pytest.raises(WorkerError):
        victims.run(2, _one_dies, str(tmp_path), time_limit_s=30.0)
        time.sleep(2)
    end = time.monotonic() + 10
    while not (tmp_path / "told").exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    head, times, headline, gone, remedy = (tmp_path / "told").read_text().splitlines()
    assert times == "1"
    assert head.startswith("True ") and float(head.split()[1]) < 4.0
    assert headline.startswith("rank 0 of 2, step 37, all_reduce of 5 float32 among ranks 0-1: lost a peer (")
    assert gone.startswith("  rank 1: process ") and gone.endswith(" is gone")
    assert "out-of-memory" in remedy


class LateIsTheEnd(CpuDevice):
    """A device whose collectives raise nothing, as on a GPU: its library ends the process much later."""

    def waited_s(self) -> float:
        return 100.0

    def collective_limit(self, limit_s: float) -> timedelta:
        return timedelta(seconds=limit_s + 3)


@contextmanager
def _recorded_end() -> Any:
    """What the process would have said and ended with."""
    said: list[Any] = []

    def refuse(error: NMMError) -> int:
        said.append(str(error))
        return 2

    with mock.patch.object(roll_call, "refuse", refuse), mock.patch.object(roll_call.os, "_exit", said.append):
        yield said


def _never_raises(place: Place) -> list[Any]:
    kind = LateIsTheEnd if place.rank == 0 else CpuDevice  # the other one waits for nothing
    with mock.patch("megatron_nmm.verify.workers.CpuDevice", kind), _recorded_end() as said:
        with place.world(ParallelConfig(time_limit_s=LIMIT_S)) as world:
            world.barrier("the start")
            if place.rank == 1:
                with RollCall(world):
                    time.sleep(LIMIT_S + 2)
            else:
                _lost(world, lambda: _sum(world))
        return said


def test_where_no_error_comes_the_watch_itself_ends_the_process(pool: WorkerPool) -> None:
    """The mocked end returns, which lets the wait run into the library's own limit."""
    said, _ = pool.run(2, _never_raises, time_limit_s=30.0)
    message, code = said[:2]
    assert message.startswith("rank 0 of 2, step 37, all_reduce of 5 float32 among ranks 0-1: waited 2 s, the limit")
    assert "  rank 1: before the first step, no collective, test_roll_call.py" in message
    assert code == 2


def _ends_with_its_own_error(place: Place) -> Told:
    with place.world(ParallelConfig(time_limit_s=LIMIT_S)) as world:
        world.barrier("the start")
        if place.rank == 1:
            roll_call.keep_quiet(dist.distributed_c10d._get_default_store())
            time.sleep(LIMIT_S + 2)
            return "", None, 0.0
        return _lost(world, lambda: _sum(world))


def test_who_loses_the_job_by_an_error_that_was_told_keeps_quiet(pool: WorkerPool) -> None:
    (_, speaks, _), _ = pool.run(2, _ends_with_its_own_error, time_limit_s=30.0)
    assert speaks is False


def _other_error(place: Place) -> str:
    with place.world(ParallelConfig()) as world:
        try:
            with RollCall(world):
                raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        except RuntimeError as error:
            return str(error)


def test_an_error_of_another_sort_passes_untouched(pool: WorkerPool) -> None:
    assert pool.run(2, _other_error) == ["mat1 and mat2 shapes cannot be multiplied"] * 2
