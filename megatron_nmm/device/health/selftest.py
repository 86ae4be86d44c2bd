"""Do the collectives compute what they should, and how fast? The operations that training is made of, on N processes.

Values are small whole numbers, so every sum is exact and a single wrong byte shows. Bandwidths are what each rank's
link carries (NCCL's "bus bandwidth"): comparable between operations and numbers of ranks.
"""

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from queue import Empty
from typing import Any

LIMIT_S = 60.0
"""Longest that all ranks together may take to meet, and each collective to finish."""
SIZES = {"cpu": (1 << 16, 1 << 24), "gpu": (1 << 20, 1 << 28)}
"""Bytes of each rank's tensor, by device: one where latency shows, one where bandwidth does."""
REPEATS = 5


@dataclass(frozen=True)
class Measured:
    """One operation at one size; the time is the slowest rank's median."""

    operation: str
    ranks: int
    bytes: int
    seconds: float
    right: bool
    link_share: float
    """Bytes that each rank's link carries, relative to ``bytes``."""

    @property
    def gb_per_second(self) -> float:
        """Of each rank's link."""
        return self.bytes * self.link_share / self.seconds / 1e9


@dataclass(frozen=True)
class Operation:
    """A collective: what it does to a rank's values, and what must come of it."""

    run: Callable[[Any, int, int], Any]
    """(values, rank, ranks) -> result."""
    expected: Callable[[Any, int, int], Any]
    """(values of rank 0, rank, ranks) -> result; rank r holds those of rank 0 plus r."""
    link_share: Callable[[int], float]
    alone: bool = True
    """Whether one rank can do it, too."""


def _all_reduce(x: Any, rank: int, ranks: int) -> Any:
    import torch.distributed as dist

    y = x.clone()
    dist.all_reduce(y)
    return y


def _all_to_all(x: Any, rank: int, ranks: int) -> Any:
    import torch
    import torch.distributed as dist

    y = torch.empty_like(x)
    dist.all_to_all_single(y, x)
    return y


def _all_gather(x: Any, rank: int, ranks: int) -> Any:
    import torch.distributed as dist

    part = x[: len(x) // ranks].contiguous()
    y = x.new_empty(len(part) * ranks)
    dist.all_gather_into_tensor(y, part)
    return y


def _reduce_scatter(x: Any, rank: int, ranks: int) -> Any:
    import torch.distributed as dist

    y = x.new_empty(len(x) // ranks)
    dist.reduce_scatter_tensor(y, x)
    return y


def _to_the_next(x: Any, rank: int, ranks: int) -> Any:
    import torch
    import torch.distributed as dist

    y = torch.empty_like(x)
    sends = dist.P2POp(dist.isend, x, (rank + 1) % ranks)
    receives = dist.P2POp(dist.irecv, y, (rank - 1) % ranks)
    for work in dist.batch_isend_irecv([sends, receives]):
        work.wait()
    return y


def _exchanged(x: Any, rank: int, ranks: int) -> Any:
    import torch

    mine = x.view(ranks, -1)[rank]
    return torch.cat([mine + other for other in range(ranks)])


def _gathered(x: Any, rank: int, ranks: int) -> Any:
    import torch

    return torch.cat([x[: len(x) // ranks] + other for other in range(ranks)])


def _summed(x: Any, ranks: int) -> Any:
    return x * ranks + ranks * (ranks - 1) // 2


OPERATIONS = {
    "all-reduce": Operation(_all_reduce, lambda x, r, n: _summed(x, n), lambda n: 2 * (n - 1) / n),
    "all-to-all": Operation(_all_to_all, _exchanged, lambda n: (n - 1) / n),
    "all-gather": Operation(_all_gather, _gathered, lambda n: (n - 1) / n),
    "reduce-scatter": Operation(_reduce_scatter, lambda x, r, n: _summed(x.view(n, -1)[r], n), lambda n: (n - 1) / n),
    "send and receive": Operation(_to_the_next, lambda x, r, n: x + (r - 1) % n, lambda n: 1.0, alone=False),
}


def by_torchrun() -> bool:
    """Whether this process is one of a job that torchrun has started."""
    return "RANK" in os.environ and "MASTER_ADDR" in os.environ


def in_this_job() -> list[Measured]:
    """The self-test over all ranks of a job by torchrun; the same results on every rank. Collective."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return _measure_all(rank, size, int(os.environ.get("LOCAL_RANK", 0)), "env://")


def on_this_machine(processes: int, limit_s: float = 3 * LIMIT_S) -> list[Measured]:
    """The self-test on ``processes`` new processes; RuntimeError with the reason when one of them fails."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    with tempfile.TemporaryDirectory(prefix="nmm-selftest-") as folder:
        store = f"file://{folder}/store"
        workers = [
            context.Process(target=_worker, args=(rank, processes, store, results), daemon=True)
            for rank in range(processes)
        ]
        for worker in workers:
            worker.start()
        try:
            error, measured = results.get(timeout=limit_s)
            for worker in workers if not error else ():
                worker.join(5.0)
        except Empty:
            raise RuntimeError(f"no answer of {processes} processes within {limit_s:g} s") from None
        finally:
            for worker in workers:
                worker.kill()
    if error:
        raise RuntimeError(error)
    return list(measured)


def _worker(rank: int, size: int, store: str, results: Any) -> None:
    try:
        measured = _measure_all(rank, size, rank, store)
        if rank == 0:
            results.put(("", measured))
    except Exception as error:  # whatever it is, the caller must hear of it
        results.put((f"rank {rank}: {traceback.format_exception_only(error)[-1].strip()}", []))


def _measure_all(rank: int, size: int, local_rank: int, meet: str) -> list[Measured]:
    import torch.distributed as dist

    from megatron_nmm.device import quiet
    from megatron_nmm.device.select import select

    quiet.install()
    device = select()
    limit = timedelta(seconds=LIMIT_S)
    if device.name == "gpu":  # the CPU's start prepares the engine, which takes seconds and is not needed here
        device.start(local_rank, size, 0)
    place = device.torch_device
    dist.init_process_group(device.backend, init_method=meet, rank=rank, world_size=size, timeout=limit)
    try:
        return [
            _measure(name, operation, length, rank, size, place, device.synchronize)
            for name, operation in OPERATIONS.items()
            for length in SIZES[device.name]
            if size > 1 or operation.alone
        ]
    finally:
        dist.destroy_process_group()


def _measure(
    name: str, operation: Operation, length: int, rank: int, size: int, place: Any, synchronize: Callable[[], None]
) -> Measured:
    import torch
    import torch.distributed as dist

    numbers = length // 4 // size * size
    first = torch.arange(numbers, device=place).remainder_(97).float()
    mine = first + rank
    right = torch.equal(operation.run(mine, rank, size), operation.expected(first, rank, size))
    seconds = []
    for _ in range(REPEATS):
        dist.barrier()
        synchronize()
        start = time.perf_counter()
        operation.run(mine, rank, size)
        synchronize()
        seconds.append(time.perf_counter() - start)
    # The slowest rank's time, and whether all ranks are right.
    verdict = torch.tensor([sorted(seconds)[REPEATS // 2], float(not right)], dtype=torch.float64, device=place)
    dist.all_reduce(verdict, op=dist.ReduceOp.MAX)
    slowest, wrong = verdict.tolist()
    return Measured(name, size, numbers * 4, slowest, wrong == 0.0, operation.link_share(size))
