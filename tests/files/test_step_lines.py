"""Files of lines by step survive a crash in the middle of a line and a full disk, and never hold a step twice."""

import errno
import os
from pathlib import Path

import pytest

from megatron_nmm.files import step_lines
from tests.chaos.disks import file_limit

NAME = "lines.jsonl"


def _file(tmp_path: Path, steps: int) -> Path:
    path = tmp_path / NAME
    for step in range(1, steps + 1):
        step_lines.append(path, {"event": "step", "step": step, "loss": 1.0 / step})
    return path


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    path = _file(tmp_path, 3)
    assert [record["step"] for record in step_lines.read(path)] == [1, 2, 3]


def test_no_file_reads_as_no_lines(tmp_path: Path) -> None:
    path = tmp_path / NAME
    assert step_lines.read(path) == []
    assert step_lines.truncate(path, 5) is None
    assert not path.exists()


def test_truncate_keeps_the_resumed_step_and_its_validation(tmp_path: Path) -> None:
    path = _file(tmp_path, 3)
    step_lines.append(path, {"event": "validation", "step": 3, "loss": 0.3})
    step_lines.append(path, {"event": "step", "step": 4, "loss": 0.25})
    assert step_lines.truncate(path, 3) == {"event": "validation", "step": 3, "loss": 0.3}
    step_lines.append(path, {"event": "step", "step": 4, "loss": 0.2})
    assert [(r["event"], r["step"]) for r in step_lines.read(path)] == [
        ("step", 1),
        ("step", 2),
        ("step", 3),
        ("validation", 3),
        ("step", 4),
    ]


def test_starting_over_drops_every_line(tmp_path: Path) -> None:
    path = _file(tmp_path, 3)
    assert step_lines.truncate(path, 0) is None
    assert path.read_bytes() == b""


@pytest.mark.parametrize("torn", [b'{"event": "step", "st', b'{"event": "step"}\n', b"\x00\x00\n", b"[]\n"])
def test_a_torn_line_is_dropped_and_what_follows_is_whole(tmp_path: Path, torn: bytes) -> None:
    path = _file(tmp_path, 2)
    with path.open("ab") as stream:
        stream.write(torn)
    assert [record["step"] for record in step_lines.read(path)] == [1, 2]
    step_lines.truncate(path, 2)
    step_lines.append(path, {"event": "step", "step": 3, "loss": 0.1})
    assert [record["step"] for record in step_lines.read(path)] == [1, 2, 3]


def test_numbers_json_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        step_lines.append(tmp_path / NAME, {"step": 1, "loss": float("nan")})


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    path = _file(tmp_path, 2)
    before = path.read_bytes()
    with file_limit(len(before) + 5), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        step_lines.append(path, {"step": 3, "loss": 0.1}, {"step": 4, "loss": 0.1})
    assert path.read_bytes() == before
    step_lines.append(path, {"step": 3, "loss": 0.1})
    assert [record["step"] for record in step_lines.read(path)] == [1, 2, 3]


def test_only_a_file_that_exists_is_forced_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[int] = []
    monkeypatch.setattr(os, "fsync", forced.append)
    step_lines.sync(tmp_path / NAME)
    assert forced == []
    step_lines.sync(_file(tmp_path, 1))
    assert len(forced) == 1
