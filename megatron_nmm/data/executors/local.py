"""Runs jobs in processes of this machine; one that dies is reported with the unit it worked on.

Idle processes are not wasted: when fewer jobs are left than there are workers, those still at work encode with more
threads.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from megatron_nmm.data.executors.protocol import Job, Report
from megatron_nmm.data.settings import Settings
from megatron_nmm.errors import DataError

LARGE_BLOCK = 1 << 20
"""Bytes from which a block goes back to the system when it is freed."""
MALLOPT_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of glibc's malloc.h."""
REPORT_EVERY_S = 0.2
"""Least time between two messages of a worker about how far it is."""


class LocalExecutor:
    """At most ``workers`` processes; a single one is this process itself."""

    name = "local"

    def __init__(self, workers: int = 1) -> None:
        self._workers = workers

    def run(self, jobs: Sequence[Job], settings: Settings, report: Report) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number, manifest) of each job as it is finished."""
        processes = min(self._workers, len(jobs))
        if processes > 1:
            yield from _run_in_processes(jobs, settings, report, processes, self._workers)
            return
        from megatron_nmm.data.shard import write_shard

        for job in jobs:
            yield job.number, write_shard(job.unit, job.folder, settings, _here(job, report, self._workers))


def _here(job: Job, report: Report, threads: int) -> Callable[[int, int], int]:
    def pulse(done: int, samples: int) -> int:
        report(job.number, done, samples)
        return threads

    return pulse


class _Worker:
    """One process as its parent sees it."""

    def __init__(self, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_work, args=(other, settings), daemon=True)
        self.job: Job | None = None
        with _interrupts_held():
            self.process.start()
        # The end of the process must close its end of the pipe, so nobody else may hold it.
        other.close()

    def give(self, job: Job) -> None:
        """Let it do this job."""
        self.job = job
        self._send(("job", job))

    def use(self, threads: int) -> None:
        """Let it encode with so many threads from the next batch on."""
        self._send(("threads", threads))

    def message(self) -> tuple[Any, ...]:
        """Its next message; raises DataError when it died instead."""
        try:
            told: tuple[Any, ...] = self.pipe.recv()
            return told
        except (EOFError, ConnectionError):
            self.process.join()
            raise DataError(self._obituary()) from None

    def stop(self) -> None:
        """End it wherever it is."""
        self.process.terminate()
        self.process.join()
        self.pipe.close()

    def _send(self, message: tuple[str, Any]) -> None:
        # A process that died says so when its answer is read.
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            self.pipe.send(message)

    def _obituary(self) -> str:
        code = self.process.exitcode or 0
        how = f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with code {code}"
        at = f"while it worked on {self.job.name}" if self.job else "before it had work"
        hint = "; memory may have run out: use fewer --workers" if -code == signal.SIGKILL else ""
        return (
            f"worker process {self.process.pid} {how} {at}{hint}; finished shards are kept, "
            "the same command continues without redoing them"
        )


def _run_in_processes(
    jobs: Sequence[Job], settings: Settings, report: Report, processes: int, threads: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give every idle worker the next job until none is left."""
    waiting = list(reversed(jobs))
    workers: list[_Worker] = []
    try:
        for _ in range(processes):
            workers.append(_Worker(settings))
            workers[-1].give(waiting.pop())
        _share(workers, threads)
        while busy := {worker.pipe: worker for worker in workers if worker.job}:
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                kind, *values = worker.message()
                if kind == "failed":
                    raise values[0]
                if kind == "progress":
                    report(*values)
                    continue
                worker.job = None
                if waiting:
                    worker.give(waiting.pop())
                else:
                    _share(workers, threads)
                yield values[0], values[1]
    finally:
        for worker in workers:
            worker.stop()


def _share(workers: Sequence[_Worker], threads: int) -> None:
    """Divide ``threads`` among the workers that have a job."""
    busy = [worker for worker in workers if worker.job]
    for number, worker in enumerate(busy):
        worker.use(threads // len(busy) + (number < threads % len(busy)))


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits till the end of the block, and for ever in a process started inside: it inherits the mask.

    Ctrl-C reaches the whole group; the parent alone answers it and ends the workers, also those that are still loading.
    """
    # It starts with the first process otherwise, and lets interrupts through when it has.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, settings: Settings) -> None:
    """The life of a worker: do jobs as they come, until its parent ends it or is gone, when nobody waits for them."""
    _return_memory()
    with contextlib.suppress(_ParentGone):
        _serve(_Line(pipe), settings)


def _serve(line: "_Line", settings: Settings) -> None:
    """Do one job after the other."""
    # The parent, which has this module too, does without the libraries behind the writer.
    from megatron_nmm.data.shard import write_shard

    while True:
        job = line.next_job()
        try:
            manifest = write_shard(job.unit, job.folder, settings, line.pulse)
        except _ParentGone:
            raise
        except Exception as error:
            line.tell("failed", _portable(error))
        else:
            line.tell("done", job.number, manifest)


def _return_memory() -> None:
    """Have large blocks go back to the system when they are freed: a row group or an image is held once, not kept.

    Arrow's own pool keeps what it once had, and so does glibc's allocator for blocks as large as those it has seen.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    with contextlib.suppress(OSError, AttributeError):  # another C library manages on its own
        ctypes.CDLL(None).mallopt(MALLOPT_MMAP_THRESHOLD, LARGE_BLOCK)


def _portable(error: Exception) -> Exception:
    """The error as it can be sent: the package's own and the disk's keep their type."""
    if type(error).__module__.startswith("megatron_nmm") or isinstance(error, OSError):
        return error
    import traceback

    text = "".join(traceback.format_exception(error))
    return RuntimeError(f"in a worker process:\n{text}")


class _ParentGone(Exception):
    """The other end of the pipe is closed: the parent was killed."""


class _Line:
    """A worker's end of the pipe to its parent."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._threads = 1
        self._job: Job | None = None
        self._next_report = 0.0

    def next_job(self) -> Job:
        """Wait for a job."""
        self._job = None
        while self._job is None:
            self._hear()
        self._next_report = 0.0
        return self._job

    def pulse(self, done: int, samples: int) -> int:
        """Tell how far the job is, now and then, and answer how many threads to use."""
        while self._pipe.poll():
            self._hear()
        if self._job and (now := time.monotonic()) >= self._next_report:
            self._next_report = now + REPORT_EVERY_S
            self.tell("progress", self._job.number, done, samples)
        return self._threads

    def tell(self, *message: Any) -> None:
        """Send the parent a message."""
        try:
            self._pipe.send(message)
        except ConnectionError:
            raise _ParentGone from None

    def _hear(self) -> None:
        try:
            kind, value = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise _ParentGone from None
        if kind == "threads":
            self._threads = value
        else:
            self._job = value
