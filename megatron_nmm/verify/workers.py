"""Worker processes that stay alive: importing the engine costs seconds, so it is done once for all of them.

A job is a module-level function ``f(place, *arguments)``; ``WorkerPool.run`` calls it on n processes at once, each
with its ``Place`` in a fresh process group, and returns what each rank returned.
"""

import gc
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from megatron_nmm.config import ParallelConfig
from megatron_nmm.device.cpu import CpuDevice
from megatron_nmm.parallel.world import World

ENGINE = "megatron_nmm.verify.engine"
"""What all workers have imported; they are forks of one process that did nothing else."""

THREADS = 1
"""Of every job: sums are split among threads, so another number of them gives other last bits."""


@dataclass(frozen=True)
class Place:
    """Where one rank of a job stands."""

    rank: int
    size: int
    store: str

    @contextmanager
    def world(self, parallel: ParallelConfig, seed: int = 1) -> Iterator[World]:
        """This rank's World for the length of a block; a job may open several, one after the other."""
        store = f"file://{self.store}-{_next_store(self)}"
        world = World.join(parallel, CpuDevice(), seed, rank=self.rank, size=self.size, init_method=store)
        try:
            yield world
        finally:
            world.close()


_OPENED: dict[str, int] = {}


def _next_store(place: Place) -> int:
    """A fresh rendezvous file for every world of a job; all ranks count alike."""
    _OPENED[place.store] = _OPENED.get(place.store, 0) + 1
    return _OPENED[place.store]


class WorkerError(RuntimeError):
    """A rank raised; carries its traceback."""


class WorkerPool:
    """At most ``processes`` workers, started when first needed, one CPU thread each."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._folder = tempfile.TemporaryDirectory(prefix="nmm-workers-")
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([ENGINE])
        self._workers: list[tuple[Any, Connection]] = []
        self._jobs = 0

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def run(self, size: int, job: Callable[..., Any], *arguments: Any, time_limit_s: float = 300.0) -> list[Any]:
        """``job(place, *arguments)`` on ``size`` ranks; their results in rank order.

        Raises WorkerError with the first failing rank's traceback; the pool starts over with fresh workers then.
        """
        if size > self._processes:
            raise ValueError(f"a job of {size} ranks needs a pool of {size} processes, this one has {self._processes}")
        while len(self._workers) < size:
            self._workers.append(self._start())
        self._jobs += 1
        store = os.path.join(self._folder.name, f"store-{self._jobs}")
        pipes = [pipe for _, pipe in self._workers[:size]]
        for rank, pipe in enumerate(pipes):
            pipe.send((job, Place(rank, size, store), arguments))
        return self._collect(pipes, time_limit_s)

    def _collect(self, pipes: list[Connection], time_limit_s: float) -> list[Any]:
        results: dict[int, Any] = {}
        while len(results) < len(pipes):
            ready: list[Any] = wait([p for r, p in enumerate(pipes) if r not in results], timeout=time_limit_s)
            if not ready:
                silent = sorted(set(range(len(pipes))) - set(results))
                self.close()
                raise WorkerError(f"ranks {silent} gave no answer within {time_limit_s:g} s")
            for pipe in ready:
                rank = pipes.index(pipe)
                try:
                    failed, value = pipe.recv()
                except EOFError:
                    failed, value = True, "its process ended without an answer"
                if failed:
                    self.close()
                    raise WorkerError(f"rank {rank} of {len(pipes)} failed:\n{value}")
                results[rank] = value
        return [results[rank] for rank in range(len(pipes))]

    def _start(self) -> tuple[Any, Connection]:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there,), daemon=False)
        process.start()
        there.close()
        return process, here

    def close(self) -> None:
        """Stop every worker; a later ``run`` starts new ones."""
        for _, pipe in self._workers:
            pipe.close()
        for process, _ in self._workers:
            process.join(0.5)
            if process.is_alive():
                process.kill()
                process.join()
        self._workers = []


def _serve(pipe: Connection) -> None:
    """A worker's life: take a job, answer, until the pool hangs up, be it between jobs or in the middle of one."""
    CpuDevice().start(local_rank=0, local_size=1, threads=THREADS)
    # What is here now stays; the collections below look at what jobs leave behind alone, which makes them cheap.
    gc.freeze()
    # ConnectionError: the pool closed its end before an answer was sent, or while one lay unread in it.
    with suppress(EOFError, ConnectionError):
        while True:
            job, place, arguments = pipe.recv()
            # An earlier job may have taken the machine as a program of its own does, with a thread for every core.
            torch.set_num_threads(THREADS)
            _answer(pipe, job, place, arguments)
            del job, arguments
            # A model's reference cycles hold its process groups, and each group a thread that spins once peers leave.
            gc.collect()


def _answer(pipe: Connection, job: Callable[..., Any], place: Place, arguments: tuple[Any, ...]) -> None:
    """Send (False, what the job returned), or (True, its traceback)."""
    try:
        pipe.send((False, job(place, *arguments)))
    except BaseException:
        pipe.send((True, traceback.format_exc()))
