"""A new folder is complete under its name, or it is not there, and neither are the parents made for it."""

from pathlib import Path

import pytest

from megatron_nmm.files.whole import FolderExists, new_folder


def test_it_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "a/b/out"
    with new_folder(target) as folder:
        (folder / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x" and [path.name for path in target.parent.iterdir()] == ["out"]


def test_nothing_stays_when_the_block_raises(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "a/b/c/out") as folder:
        (folder / "file").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]


def test_an_empty_folder_may_be_there_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "file").touch()
    for name in ("empty", "empty/file"):
        with pytest.raises(FolderExists, match="exists and is not empty"), new_folder(tmp_path / name):
            pass


def test_what_a_killed_attempt_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial/old").touch()
    with new_folder(tmp_path / "out") as folder:
        (folder / "new").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
