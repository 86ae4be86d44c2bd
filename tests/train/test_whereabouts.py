"""A stack in words: the step's part, the collective with its size and ranks, its purpose; the odd rank out first."""

import threading
from pathlib import Path
from types import FrameType

import pytest
import torch
import torch.distributed as dist

from megatron_nmm.config import ParallelConfig
from megatron_nmm.parallel.world import World
from megatron_nmm.train import whereabouts
from megatron_nmm.verify.workers import Place, WorkerPool


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([3], "rank 3"), ([2, 0, 1, 7], "ranks 0-2, 7"), ([0, 2], "ranks 0, 2"), ([5, 6], "ranks 5-6")],
)
def test_ranks(numbers: list[int], text: str) -> None:
    assert whereabouts.ranks(numbers) == text


def test_who_stands_elsewhere_comes_first() -> None:
    words = {0: "saving", 1: "saving", 2: "reading data", 3: "saving"}
    assert list(whereabouts.grouped(words)) == [([2], "reading data"), ([0, 1, 3], "saving")]


def _fails(file: str, function: str, inside: str = "raise RuntimeError") -> list[FrameType]:
    """The stack of an error in ``function`` of a file that is called so."""
    names: dict[str, object] = {}
    exec(compile(f"def {function}():\n    {inside}\n", file, "exec"), names)
    try:
        names[function]()  # type: ignore[operator]
    except RuntimeError as error:
        return whereabouts.of_error(error.__traceback__)[1:]
    raise AssertionError("it did not fail")


def test_part_and_purpose_come_from_files() -> None:
    ours = _fails("/x/megatron_nmm/data/stream.py", "next_step")
    assert whereabouts.describe(ours) == "reading data: no collective, megatron_nmm/data/stream.py:2, next_step"
    pipeline = _fails("/x/megatron_nmm/parallel/schedule.py", "forward_backward")
    pipeline += _fails("/x/megatron/core/pipeline_parallel/p2p_communication.py", "recv_forward")
    assert whereabouts.describe(pipeline) == (
        "forward and backward pass: waits for a neighbouring pipeline stage, "
        "megatron/core/pipeline_parallel/p2p_communication.py:2, recv_forward"
    )
    assert whereabouts.describe([]) == ""


def test_every_part_and_purpose_names_files_that_exist() -> None:
    import megatron.core

    package = whereabouts.__file__.rpartition("/train/")[0]
    core = next(iter(megatron.core.__path__))
    ours = {path.name for path in Path(package).rglob("*.py")}
    assert set(whereabouts.PARTS) <= ours
    roots = {"megatron_nmm/": Path(package), "megatron/core/": Path(core), "torch/": Path(torch.__file__).parent}
    for part, _ in whereabouts.PURPOSES:
        root, folder = next((root, folder) for root, folder in roots.items() if part.startswith(root))
        assert (folder / part.removeprefix(root)).exists(), part


def _late(world: World, wait: str) -> None:
    if wait == "barrier":
        world.barrier("the end of step 7")
    elif wait == "sum":
        dist.all_reduce(torch.ones(2, 3), group=world.groups.dp)
    elif wait == "several":
        with dist.distributed_c10d._coalescing_manager(world.groups.dp, async_ops=False):
            dist.all_reduce(torch.ones(2, 3), group=world.groups.dp)
    else:
        dist.recv(torch.ones(4), src=1)


def _waits(place: Place, wait: str) -> str:
    """What rank 0 says of its main thread while it waits for rank 1, told by another thread."""
    with place.world(ParallelConfig()) as world:
        world.barrier("the start")
        told: list[str] = []
        seen = threading.Event()
        main = threading.get_ident()

        def look() -> None:
            told.append(whereabouts.describe(whereabouts.of_thread(main)))
            seen.set()

        if place.rank == 1:
            seen.wait(0.6)
            if wait == "receive":
                dist.send(torch.ones(4), dst=0)
            else:
                _late(world, wait)
            return ""
        threading.Timer(0.3, look).start()
        _late(world, wait)
        return told[0]


@pytest.mark.parametrize(
    ("wait", "words"),
    [
        ("barrier", "barrier among ranks 0-1 (the end of step 7)"),
        ("sum", "all_reduce of 6 float32 among ranks 0-1"),
        ("several", "several collectives in one among ranks 0-1"),
        ("receive", "recv of 4 float32 with rank 1"),
    ],
)
def test_a_living_stack_names_the_collective(wait: str, words: str, pool: WorkerPool) -> None:
    assert pool.run(2, _waits, wait)[0] == words
