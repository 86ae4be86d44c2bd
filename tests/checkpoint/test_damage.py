"""Damaged checkpoints: skipped by all ranks alike with the reason, or refused when none is intact."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_nmm.checkpoint import manifest, progress
from megatron_nmm.verify.layouts import LAYOUTS, SINGLE
from megatron_nmm.verify.workers import WorkerPool
from tests.checkpoint import jobs

TP2 = LAYOUTS[0]


@pytest.fixture(scope="module")
def run_folder(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TP2 run with checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("run")
    pool.run(2, jobs.train_and_save, jobs.toy(TP2), folder, 1, 2)
    return folder


@pytest.fixture
def folder(run_folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(run_folder, tmp_path / "run")


def _cut(checkpoint: Path) -> None:
    file = checkpoint / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-1024])


def _flip(checkpoint: Path) -> None:
    file = checkpoint / "__1_0.distcp"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


def _remove(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: (checkpoint / name).unlink()


def _rename_step(checkpoint: Path) -> None:
    manifest.write(checkpoint, manifest.Manifest(7, manifest.read(checkpoint).files))


DAMAGES = {
    "cut short": (_cut, "__0_0.distcp is 1,024 bytes shorter than its manifest says"),
    "flipped bit": (_flip, "__1_0.distcp has changed since it was written"),
    "no tensors": (_remove("__1_0.distcp"), "__1_0.distcp is missing"),
    "no index": (_remove(".metadata"), ".metadata is missing"),
    "no progress": (_remove(progress.NAME), "progress.json is missing"),
    "no manifest": (_remove(manifest.NAME), "manifest.json is missing"),
    "other step": (_rename_step, "its manifest is of step 7"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_intact_checkpoint_is_taken_and_the_damaged_one_named(
    damage: str, folder: Path, pool: WorkerPool
) -> None:
    harm, told = DAMAGES[damage]
    harm(folder / "checkpoints/step-00000002")
    main, other = pool.run(2, jobs.try_to_resume, jobs.toy(TP2), folder)
    for reached, error, _ in (main, other):
        assert reached is not None and reached.step == 1 and error == ""
    assert len(main[2]) == 1 and main[2][0].startswith(f"skipped step-00000002: {told}"), main[2]
    assert other[2] == [], "rank 0 alone speaks"


def test_when_all_are_damaged_every_rank_refuses_and_nothing_is_changed(folder: Path, pool: WorkerPool) -> None:
    _cut(folder / "checkpoints/step-00000002")
    _flip(folder / "checkpoints/step-00000001")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    main, other = pool.run(2, jobs.try_to_resume, jobs.toy(TP2), folder)
    assert main[1] == other[1]
    for part in ("no checkpoint in", "nothing was changed", "step-00000002: __0_0.distcp is", "step-00000001: __1_0"):
        assert part in main[1], main[1]
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_saving_the_damaged_step_again_replaces_it(folder: Path, pool: WorkerPool, tmp_path: Path) -> None:
    _flip(folder / "checkpoints/step-00000002")
    _, _, said = pool.run(2, jobs.resume_and_train, jobs.toy(TP2), folder, 2, folder)[0]
    assert len(said) == 1
    reached, error, said = pool.run(1, jobs.try_to_resume, jobs.toy(SINGLE), folder)[0]
    assert (reached and reached.step, error, said) == (2, "", [])


def test_a_file_nobody_listed_is_left_alone(folder: Path, pool: WorkerPool) -> None:
    (folder / "checkpoints/step-00000002/notes.txt").write_text("good run")
    reached, _, said = pool.run(1, jobs.try_to_resume, jobs.toy(SINGLE), folder)[0]
    assert reached is not None and reached.step == 2 and said == []
