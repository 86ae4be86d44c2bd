"""Save a checkpoint: all ranks write, or none of it shows; earlier checkpoints are never at risk."""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from megatron_nmm.checkpoint import manifest, progress, publish
from megatron_nmm.checkpoint.agree import RankFailure, everywhere, on_main
from megatron_nmm.checkpoint.manifest import Entry, Manifest
from megatron_nmm.checkpoint.progress import Progress
from megatron_nmm.checkpoint.state import Optimizer, Shards, sharded
from megatron_nmm.errors import CheckpointError
from megatron_nmm.files import lock
from megatron_nmm.parallel.world import World

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PROBE = 1 << 20
"""Bytes written to learn why a write failed."""
NO_RIGHT = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class SaveReport:
    """A checkpoint that is safely on disk: its folder, seconds from call to return, bytes over all its files."""

    path: Path
    seconds: float
    bytes: int


def save(
    folder: Path,
    step: int,
    model: Any,
    optimizer: Optimizer,
    reached: Progress,
    world: World,
    keep: int,
    say: Callable[[str], None] = print,
    pinned: Collection[int] = (),
) -> SaveReport:
    """Write ``<folder>/checkpoints/step-<step>``, delete all but ``pinned`` steps and the ``keep`` newest; collective.

    ``folder`` is the run's folder, on storage that all ranks share; ``model`` is inside megatron-core's
    DistributedDataParallel. Remarks (an old checkpoint that cannot be deleted) go to ``say`` on rank 0.
    Raises the same CheckpointError on every rank when any rank cannot write; what was there before is still there.
    """
    assert step == reached.step, f"step {step} is saved with the progress of step {reached.step}"
    start = time.perf_counter()
    checkpoints = folder / publish.CHECKPOINTS
    shards = Shards(sharded(model, optimizer, world, is_loading=False), world)
    try:
        files, remarks = _save(checkpoints, shards, reached, world, keep, pinned)
    except RankFailure as failure:
        needed = sum(everywhere(world, "adding up sizes", lambda: shards.bytes))
        told = on_main(world, "looking at what is left", partial(_consequence, checkpoints, failure.errno, needed))
        raise CheckpointError(f"step {step} was not saved: {failure}. {told}") from failure
    if world.is_main:
        for remark in remarks:
            say(remark)
    size = sum(entry.bytes for entry in files.values())
    return SaveReport(checkpoints / publish.name_of(step), time.perf_counter() - start, size)


def _save(
    checkpoints: Path, shards: Shards, reached: Progress, world: World, keep: int, pinned: Collection[int]
) -> tuple[dict[str, Entry], list[str]]:
    """The files now published and remarks. Collective; after a RankFailure the folder is as it was before."""
    with ExitStack() as locked:
        on_main(world, "locking the folder", lambda: locked.enter_context(lock.hold(checkpoints)))
        try:
            writing = on_main(world, "opening a folder", lambda: publish.begin(checkpoints, reached.step))
            files = _write(writing, shards, reached, world)
            return files, on_main(world, "publishing", lambda: publish.commit(checkpoints, reached.step, keep, pinned))
        except RankFailure as failure:
            refusal = on_main(world, "trying the disk", lambda: _refusal(checkpoints))
            on_main(world, "removing what was written", lambda: publish.recover(checkpoints))
            if failure.errno is None and refusal is not None:
                raise RankFailure(f"{os.strerror(refusal)} ({failure})", refusal) from failure
            raise


def _write(writing: Path, shards: Shards, reached: Progress, world: World) -> dict[str, Entry]:
    """Fill the folder and seal it with its manifest; returns the files it lists. Collective."""
    shards.write(writing)
    on_main(world, "writing progress", lambda: progress.write(writing, reached))
    parts = everywhere(world, "sealing files", lambda: _seal(writing, world))
    files = {name: entry for part in parts for name, entry in part.items()}
    on_main(world, "writing the manifest", lambda: manifest.write(writing, Manifest(reached.step, files)))
    return files


def _seal(writing: Path, world: World) -> dict[str, Entry]:
    """Flush and hash this rank's share of the files: the ones it wrote itself, still in its own memory's cache."""
    mine = f"__{world.rank}_"
    shared = [path for path in writing.iterdir() if world.is_main and not path.name.startswith("__")]
    return {path.name: manifest.seal(path) for path in [*writing.glob(mine + "*"), *shared]}


def _refusal(checkpoints: Path) -> int | None:
    """The system's error number for a small write, or None: torch reports a full disk as an inconsistent archive."""
    try:
        with tempfile.TemporaryFile(dir=checkpoints) as stream:
            stream.write(bytes(PROBE))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as refused:
        return refused.errno
    return None


def _consequence(checkpoints: Path, number: int | None, needed: int) -> str:
    """What a failed save has left, and what the user can do about system error ``number``."""
    intact = publish.published(checkpoints)
    left = (
        f"Earlier checkpoints are as they were, the newest is {intact[0].name}." if intact else "None was there before."
    )
    free = shutil.disk_usage(checkpoints).free if checkpoints.is_dir() else None
    if number in NO_SPACE or (free is not None and free < needed):
        room = f"It needs about {needed:,} bytes in {checkpoints}; {free or 0:,} are free."
        return f"{room} {left} Make room there and start the run again, it continues from its newest checkpoint"
    if number in NO_RIGHT:
        return f"{checkpoints} must be writable. {left} Make it writable, or start with another folder (folder=...)"
    return f"The folder is {checkpoints}. {left}"
