"""Disks that refuse: full at any point of a save, read-only, failing on one rank; no rank hangs, nothing is lost."""

import errno
import os
import subprocess
from contextlib import ExitStack, nullcontext
from pathlib import Path
from unittest import mock

import pytest

from megatron_nmm.checkpoint import manifest, publish
from megatron_nmm.config import RunConfig
from megatron_nmm.errors import CheckpointError
from megatron_nmm.files import lock
from megatron_nmm.verify.layouts import LAYOUTS
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.chaos.disks import file_limit, filled, is_full, small_disk
from tests.checkpoint import jobs
from tests.checkpoint.folders import faults, names

TP2 = LAYOUTS[0]
PAGE = 4096


def _try(here: jobs.Session, folder: Path, step: int) -> str:
    """Save; the error's message, "" when there is none."""
    try:
        here.save(folder, step)
    except CheckpointError as error:
        return str(error)
    return ""


def _save_into_little_room(place: Place, run: RunConfig, folder: Path, real: bool) -> list[tuple[str, list[str]]]:
    """Save step 1 with room, then step 2 with more and more, at last with all: (error, what lies there) of each."""
    with jobs.session(place, run) as here:
        here.train(1, 1)
        size = here.save(folder, 1).bytes
        here.train(2, 2)
        found = []
        for room in (0, PAGE, *range(PAGE * 7, size, size // 6), *range(size - 4 * PAGE, size + 5 * PAGE, PAGE)):
            little = (filled(folder, room) if here.world.is_main else nullcontext()) if real else file_limit(room // 2)
            with little:
                here.world.barrier("the disk is full")
                error = _try(here, folder, 2)
                here.world.barrier("the attempt is over")
            found.append((error, names(folder / "checkpoints")))
        return [*found, (_try(here, folder, 2), names(folder / "checkpoints"))]


def test_a_disk_that_fills_up_anywhere_in_a_save_costs_that_save_only(pool: WorkerPool, tmp_path: Path) -> None:
    """On a small tmpfs; where mounting is not permitted, under a limit on file sizes (EFBIG in place of ENOSPC)."""
    folder = tmp_path / "run"
    with small_disk(folder, 4 << 20) as real:
        main, other = pool.run(2, _save_into_little_room, jobs.toy(TP2), folder, real, time_limit_s=60)
        assert [error for error, _ in main] == [error for error, _ in other], "ranks disagree"
        refused = [(error, left) for error, left in main if error]
        assert len(refused) >= 10 and len({error for error, _ in main} - {""}) >= 2
        for error, left in refused:
            assert is_full(error), error
            for part in ("step 2 was not saved", "newest is step-00000001", str(folder / "checkpoints"), "free"):
                assert part in error, error
            assert left == ["latest", "step-00000001"]
        assert main[-1] == ("", ["latest", "step-00000001", "step-00000002"])
        assert all(faults(path) == [] for path in publish.published(folder / "checkpoints"))


def _save_where_nothing_can_be_written(place: Place, run: RunConfig, folder: Path, real: bool) -> str:
    with jobs.session(place, run) as here, ExitStack() as readonly:
        here.save(folder, 1)
        if real and here.world.is_main:
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        if not real:
            refusal = OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))
            readonly.enter_context(mock.patch.object(lock, "hold", side_effect=refusal))
        here.world.barrier("the disk is read-only")
        return _try(here, folder, 2)


def test_a_read_only_disk_is_one_clear_error_on_all_ranks(pool: WorkerPool, tmp_path: Path) -> None:
    """On a tmpfs remounted read-only; where mounting is not permitted, with the refusal of the first write faked."""
    folder = tmp_path / "run"
    with small_disk(folder, 4 << 20) as real:
        main, other = pool.run(2, _save_where_nothing_can_be_written, jobs.toy(TP2), folder, real, time_limit_s=60)
        assert main == other
        for part in ("step 2 was not saved", os.strerror(errno.EROFS), "must be writable", "newest is step-00000001"):
            assert part in main, main
        assert names(folder / "checkpoints") == ["latest", "step-00000001"]


def _fail_on_one_rank(place: Place, run: RunConfig, folder: Path, rank: int, target: str) -> tuple[str, str]:
    """(error of a save during which ``target`` fails on ``rank``, error of the next save without the fault)."""
    fault = mock.patch(target, side_effect=OSError(errno.EIO, os.strerror(errno.EIO), "disk"))
    with jobs.session(place, run) as here:
        here.save(folder, 1)
        with fault if place.rank == rank else nullcontext():
            error = _try(here, folder, 2)
        return error, _try(here, folder, 2)


@pytest.mark.parametrize(
    ("rank", "target"),
    [
        (0, "megatron_nmm.checkpoint.publish.begin"),
        (1, "torch.distributed.checkpoint.filesystem._write_item"),
        (0, "torch.distributed.checkpoint.filesystem.FileSystemWriter.finish"),
        (0, "megatron_nmm.checkpoint.state.save_config"),
        (0, "megatron_nmm.checkpoint.progress.write"),
        (1, "megatron_nmm.checkpoint.manifest.seal"),
        (0, "megatron_nmm.checkpoint.manifest.write"),
        (0, "megatron_nmm.checkpoint.publish.commit"),
    ],
)
def test_a_fault_on_one_rank_is_the_same_error_on_all_and_the_next_save_works(
    rank: int, target: str, pool: WorkerPool, tmp_path: Path
) -> None:
    """Every stage of a save, on a rank that fails there alone."""
    main, other = pool.run(2, _fail_on_one_rank, jobs.toy(TP2), tmp_path, rank, target, time_limit_s=60)
    assert main == other and main[1] == ""
    assert os.strerror(errno.EIO) in main[0] and "newest is step-00000001" in main[0], main[0]
    assert rank == 0 or f"rank {rank}" in main[0], main[0]
    assert names(tmp_path / "checkpoints") == ["latest", "step-00000001", "step-00000002"]


def _save_while_locked(place: Place, run: RunConfig, folder: Path) -> str:
    with jobs.session(place, run) as here:
        return _try(here, folder, 1)


def test_two_writers_the_second_is_refused_and_harms_nothing(pool: WorkerPool, tmp_path: Path) -> None:
    """Another process is in the middle of a save: its unfinished folder must survive."""
    checkpoints = tmp_path / "checkpoints"
    with lock.hold(checkpoints):
        writing = publish.begin(checkpoints, 1)
        saved = pool.run(2, _save_while_locked, jobs.toy(TP2), tmp_path, time_limit_s=60)
        resumed = pool.run(2, jobs.try_to_resume, jobs.toy(TP2), tmp_path, time_limit_s=60)
        for error in (*saved, *(error for _, error, _ in resumed)):
            assert f"in use by process {os.getpid()}" in error, error
        manifest.write(writing, manifest.Manifest(1, {}))
        publish.commit(checkpoints, 1, keep=2)
    assert names(checkpoints) == ["latest", "step-00000001"]
