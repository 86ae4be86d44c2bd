"""Publication: order of events, replacement, pruning, recovery from every state a killed save can leave."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_nmm.checkpoint import manifest, publish
from tests.checkpoint.folders import faults, names, save_bytes


def test_a_checkpoint_appears_with_its_files_and_the_pointer_names_it(tmp_path: Path) -> None:
    checkpoint = save_bytes(tmp_path / "c", 100, {"a": b"one", "b": b"two"})
    assert names(tmp_path / "c") == ["latest", "step-00000100"]
    assert names(checkpoint) == ["a", "b", "manifest.json"]
    assert (tmp_path / "c/latest").read_text() == "step-00000100\n"
    assert faults(checkpoint) == []


def test_the_newest_are_kept_and_older_ones_go(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        save_bytes(tmp_path, step, {"a": b"x"}, keep=2)
    assert names(tmp_path) == ["latest", "step-00000015", "step-00000020"]


def test_pinned_steps_stay_and_do_not_count(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20, 25):
        save_bytes(tmp_path, step, {"a": b"x"}, keep=2, pinned=(10, 25))
    assert names(tmp_path) == ["latest", "step-00000010", "step-00000020", "step-00000025"]


def test_keep_below_one_still_keeps_the_new_checkpoint(tmp_path: Path) -> None:
    save_bytes(tmp_path, 1, {"a": b"x"}, keep=0)
    save_bytes(tmp_path, 2, {"a": b"y"}, keep=0)
    assert names(tmp_path) == ["latest", "step-00000002"]


def test_steps_sort_as_numbers_and_strangers_are_not_checkpoints(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000, 7):
        save_bytes(tmp_path, step, {"a": b"x"}, keep=9)
    (tmp_path / "step-notes").mkdir()
    (tmp_path / "step-00000008").write_text("a file, not a folder")
    assert [publish.step_of(path) for path in publish.published(tmp_path)] == [100_000_000, 99_999_999, 7]


def test_a_later_step_left_by_a_rewound_run_is_not_pruned_and_costs_no_newer_one(tmp_path: Path) -> None:
    for step in (100, 200):
        save_bytes(tmp_path, step, {"a": b"x"})
    save_bytes(tmp_path, 150, {"a": b"y"}, keep=1)
    assert names(tmp_path) == ["latest", "step-00000150", "step-00000200"]
    assert (tmp_path / "latest").read_text() == "step-00000150\n"


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save_bytes(tmp_path, 3, {"a": b"old"})
    checkpoint = save_bytes(tmp_path, 3, {"a": b"new"})
    assert (checkpoint / "a").read_bytes() == b"new" and faults(checkpoint) == []
    assert names(tmp_path) == ["latest", "step-00000003"]


def test_everything_is_on_disk_before_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power cut: a rename may only follow the flush of what it names, the pointer only the flush of the rename."""
    events: list[tuple[str, str]] = []

    def record(name: str, path_of: Callable[..., str]) -> None:
        real = getattr(os, name)

        def recorded(*arguments: Any, **options: Any) -> Any:
            events.append((name, path_of(*arguments)))
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, recorded)

    save_bytes(tmp_path / "c", 1, {"a": b"x"}, keep=1)
    record("fsync", lambda handle: str(Path(os.readlink(f"/proc/self/fd/{handle}")).relative_to(tmp_path)))
    record("rename", lambda source, target: f"{Path(source).name} > {Path(target).name}")
    record("replace", lambda source, target: f"{Path(source).name} > {Path(target).name}")
    save_bytes(tmp_path / "c", 2, {"a": b"x", "b": b"y"}, keep=1)
    writing = "c/.tmp-step-00000002"
    assert events == [
        ("fsync", f"{writing}/a"),
        ("fsync", f"{writing}/b"),
        ("fsync", f"{writing}/manifest.json"),
        ("fsync", "c/.tmp-latest"),
        ("fsync", writing),
        ("rename", ".tmp-step-00000002 > step-00000002"),
        ("fsync", "c"),
        ("replace", ".tmp-latest > latest"),
        ("fsync", "c"),
        ("rename", "step-00000001 > .gone-step-00000001"),
    ]


@pytest.mark.parametrize("leftover", [".tmp-step-00000009", ".gone-step-00000001", ".old-step-00000002"])
def test_leftovers_of_a_killed_save_are_removed_with_a_remark(tmp_path: Path, leftover: str) -> None:
    save_bytes(tmp_path, 2, {"a": b"x"})
    (tmp_path / leftover).mkdir()
    (tmp_path / leftover / "half").write_bytes(b"h")
    (tmp_path / ".tmp-latest").write_text("step-00000009\n")
    assert publish.recover(tmp_path) == [f"removed {leftover}, left over from a save that did not finish"]
    assert names(tmp_path) == ["latest", "step-00000002"]


def test_a_checkpoint_that_stepped_aside_comes_back_when_its_replacement_never_came(tmp_path: Path) -> None:
    save_bytes(tmp_path, 2, {"a": b"x"}).rename(tmp_path / ".old-step-00000002")
    (tmp_path / ".tmp-step-00000002").mkdir()
    remarks = publish.recover(tmp_path)
    assert remarks[0].startswith("put step-00000002 back")
    assert names(tmp_path) == ["latest", "step-00000002"] and faults(tmp_path / "step-00000002") == []


def test_recovery_of_a_folder_that_does_not_exist_does_nothing(tmp_path: Path) -> None:
    assert publish.recover(tmp_path / "none") == [] and publish.published(tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_an_old_checkpoint_that_cannot_be_deleted_is_a_remark_not_a_failed_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(folder: Path) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy", str(folder))

    save_bytes(tmp_path, 1, {"a": b"x"})
    writing = publish.begin(tmp_path, 2)
    manifest.write(writing, manifest.Manifest(2, {}))
    monkeypatch.setattr(shutil, "rmtree", busy)
    (remark,) = publish.commit(tmp_path, 2, keep=1)
    assert "step-00000001" in remark and "busy" in remark
    monkeypatch.undo()
    assert [path.name for path in publish.published(tmp_path)] == ["step-00000002"]
    publish.recover(tmp_path)
    assert names(tmp_path) == ["latest", "step-00000002"]


def test_a_rename_that_fails_leaves_the_old_checkpoint_of_that_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_bytes(tmp_path, 4, {"a": b"old"})
    real = Path.rename

    def rename(source: Path, target: Path) -> Path:
        if source.name == ".tmp-step-00000004":
            raise OSError(errno.EIO, "Input/output error", str(source))
        return real(source, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="Input/output error"):
        save_bytes(tmp_path, 4, {"a": b"new"})
    monkeypatch.undo()
    publish.recover(tmp_path)
    assert (tmp_path / "step-00000004/a").read_bytes() == b"old"
    assert names(tmp_path) == ["latest", "step-00000004"]
