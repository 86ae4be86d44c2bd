"""metrics.jsonl survives a crash in the middle of a line and never holds a step twice."""

from pathlib import Path

import pytest

from megatron_nmm.train import metrics


def _file(tmp_path: Path, steps: int) -> Path:
    path = tmp_path / metrics.NAME
    for step in range(1, steps + 1):
        metrics.append(path, {"event": "step", "step": step, "loss": 1.0 / step})
    return path


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    path = _file(tmp_path, 3)
    assert [record["step"] for record in metrics.read(path)] == [1, 2, 3]


def test_no_file_reads_as_no_lines(tmp_path: Path) -> None:
    path = tmp_path / metrics.NAME
    assert metrics.read(path) == []
    assert metrics.truncate(path, 5) is None
    assert not path.exists()


def test_truncate_keeps_the_resumed_step_and_its_validation(tmp_path: Path) -> None:
    path = _file(tmp_path, 3)
    metrics.append(path, {"event": "validation", "step": 3, "loss": 0.3})
    metrics.append(path, {"event": "step", "step": 4, "loss": 0.25})
    assert metrics.truncate(path, 3) == {"event": "validation", "step": 3, "loss": 0.3}
    metrics.append(path, {"event": "step", "step": 4, "loss": 0.2})
    assert [(r["event"], r["step"]) for r in metrics.read(path)] == [
        ("step", 1),
        ("step", 2),
        ("step", 3),
        ("validation", 3),
        ("step", 4),
    ]


def test_starting_over_drops_every_line(tmp_path: Path) -> None:
    path = _file(tmp_path, 3)
    assert metrics.truncate(path, 0) is None
    assert path.read_bytes() == b""


@pytest.mark.parametrize("torn", [b'{"event": "step", "st', b'{"event": "step"}\n', b"\x00\x00\n", b"[]\n"])
def test_a_torn_line_is_dropped_and_what_follows_is_whole(tmp_path: Path, torn: bytes) -> None:
    path = _file(tmp_path, 2)
    with path.open("ab") as stream:
        stream.write(torn)
    assert [record["step"] for record in metrics.read(path)] == [1, 2]
    metrics.truncate(path, 2)
    metrics.append(path, {"event": "step", "step": 3, "loss": 0.1})
    assert [record["step"] for record in metrics.read(path)] == [1, 2, 3]


def test_numbers_json_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        metrics.append(tmp_path / metrics.NAME, {"step": 1, "loss": float("nan")})
