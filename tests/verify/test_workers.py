"""The worker pool: results in rank order, failures that name rank and cause, and life after a failure."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from megatron_nmm.config import ParallelConfig
from megatron_nmm.device.cpu import CpuDevice
from megatron_nmm.verify import workers
from megatron_nmm.verify.workers import Place, WorkerError, WorkerPool


@pytest.fixture(scope="module")
def own_pool() -> Iterator[WorkerPool]:
    """A pool whose workers may be lost; the session's should live."""
    with WorkerPool(2) as pool:
        yield pool


def _who(place: Place) -> tuple[int, int, int, int]:
    return place.rank, place.size, os.getpid(), torch.get_num_threads()


def _take_all_cores(place: Place) -> None:
    CpuDevice().start(local_rank=0, local_size=1, threads=0)


def _meet_twice(place: Place) -> list[bool]:
    found = []
    for _ in range(2):
        with place.world(ParallelConfig()) as world:
            found.append(world.any(place.rank == 1))
    return found


def _fail_on_rank_1(place: Place, value: int) -> None:
    if place.rank == 1:
        raise ValueError(f"no {value} here")
    time.sleep(20.0)


def test_every_rank_answers_in_order_with_one_thread_and_its_own_process(own_pool: WorkerPool) -> None:
    answers = own_pool.run(2, _who)
    assert [answer[:2] for answer in answers] == [(0, 2), (1, 2)]
    assert len({answer[2] for answer in answers} | {os.getpid()}) == 3
    assert [answer[3] for answer in answers] == [1, 1]


def test_a_job_that_takes_more_threads_leaves_one_to_the_next(own_pool: WorkerPool) -> None:
    own_pool.run(2, _take_all_cores)
    assert [answer[3] for answer in own_pool.run(2, _who)] == [1, 1]


def test_workers_stay_and_every_job_has_worlds_of_its_own(own_pool: WorkerPool) -> None:
    before = [answer[2] for answer in own_pool.run(2, _who)]
    assert own_pool.run(2, _meet_twice) == [[True, True]] * 2
    assert own_pool.run(1, _meet_twice) == [[False, False]]
    assert own_pool.run(2, _meet_twice) == [[True, True]] * 2
    assert [answer[2] for answer in own_pool.run(2, _who)] == before


def test_an_oversized_job_is_refused(own_pool: WorkerPool) -> None:
    with pytest.raises(ValueError, match="a job of 3 ranks needs a pool of 3 processes, this one has 2"):
        own_pool.run(3, _who)
    assert len(own_pool.run(2, _who)) == 2


def test_a_failing_job_names_its_rank_and_the_pool_works_again(own_pool: WorkerPool) -> None:
    before = own_pool.run(2, _who)
    with pytest.raises(WorkerError) as caught:
        own_pool.run(2, _fail_on_rank_1, 7)
    message = str(caught.value)
    assert message.startswith("rank 1 of 2 failed:\nTraceback")
    assert "in _fail_on_rank_1" in message and message.endswith("ValueError: no 7 here\n")
    (after,) = own_pool.run(1, _who)
    assert after[:2] == (0, 1)
    assert after[2] not in [answer[2] for answer in before], "a lost job's workers may be in any state"


def test_a_failed_rank_is_reported_while_another_hangs() -> None:
    (hanging, _silent), (failed, speaker) = multiprocessing.Pipe(), multiprocessing.Pipe()
    speaker.send((True, "Traceback: the cause\n"))
    start = time.monotonic()
    with pytest.raises(WorkerError, match="rank 1 of 2 failed:\nTraceback: the cause"):
        WorkerPool(2)._collect([hanging, failed], time_limit_s=20.0)
    assert time.monotonic() - start < 10.0


def test_a_rank_that_dies_and_a_rank_that_says_nothing() -> None:
    (dead, gone), (hanging, _silent) = multiprocessing.Pipe(), multiprocessing.Pipe()
    gone.close()
    with pytest.raises(WorkerError, match="rank 0 of 1 failed:\nits process ended without an answer"):
        WorkerPool(1)._collect([dead], time_limit_s=5.0)
    answered, speaker = multiprocessing.Pipe()
    speaker.send((False, 1))
    with pytest.raises(WorkerError, match=r"ranks \[1\] gave no answer within 0.05 s"):
        WorkerPool(2)._collect([answered, hanging], time_limit_s=0.05)


def test_a_result_that_cannot_travel_is_a_failure_of_its_job() -> None:
    here, there = multiprocessing.Pipe()
    workers._answer(there, lambda place: lambda: None, Place(0, 1, ""), ())
    failed, message = here.recv()
    assert failed and message.startswith("Traceback") and "pickle" in message


@pytest.mark.parametrize("answered", [True, False])
def test_a_worker_whose_pool_hangs_up_goes_quietly(answered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its answer lies unread or cannot be sent any more."""
    monkeypatch.setattr(workers, "CpuDevice", lambda: SimpleNamespace(start=lambda **_: None))
    here, there = multiprocessing.Pipe()
    here.send((_who, Place(0, 1, ""), ()))
    with ThreadPoolExecutor(1) as thread:
        if not answered:
            here.close()
        life = thread.submit(workers._serve, there)
        if answered:
            assert here.poll(10.0)
            here.close()
        assert life.result(10.0) is None
