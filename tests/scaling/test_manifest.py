"""A manifest holds what was appended, and names every line it cannot use."""

import json
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from megatron_nmm.errors import ConfigError, DataError
from megatron_nmm.scaling.manifest import NAME, append, read, select
from tests.scaling.points import point


def lines(path: Path, *records: dict[str, object] | str) -> Path:
    texts = (record if isinstance(record, str) else json.dumps(record) for record in records)
    path.write_text("".join(text + "\n" for text in texts))
    return path


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    written = [point("a"), point("b", active=2e9, family="late", vision=3e8, vision_tokens=1e9), point("c", seed=3)]
    for one in written:
        append(tmp_path / NAME, one)
    found = read(tmp_path)
    assert list(found.points) == written and not found.faults and found.path == tmp_path / NAME


def test_writers_at_once_lose_no_line(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        for number in range(10):
            append(tmp_path / NAME, point(f"{writer}-{number}"))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read(tmp_path).points) == 40 and not read(tmp_path).faults


def test_half_a_last_line_is_named_and_later_lines_are_whole(tmp_path: Path) -> None:
    file = tmp_path / NAME
    append(file, point("a"))
    file.write_bytes(file.read_bytes() + json.dumps(asdict(point("b"))).encode()[:60])
    [fault] = read(file).faults
    assert fault.line == 2 and "cut short by a writer that was killed" in str(fault)
    append(file, point("c"))
    found = read(file)
    assert [one.run for one in found.points] == ["a", "c"]
    assert [one.line for one in found.faults] == [2] and "not JSON" in found.faults[0].what


def test_equal_lines_count_once_and_different_ones_not_at_all(tmp_path: Path) -> None:
    for one in (point("a"), point("b"), point("a"), point("b", active=3e9), point("c")):
        append(tmp_path / NAME, one)
    found = read(tmp_path)
    assert [one.run for one in found.points] == ["a", "c"]
    told = [str(fault) for fault in found.faults]
    assert told[0].startswith("line 2 (b): lines 2, 4 tell different things")
    assert told[1] == "line 3 (a): repeats line 1; counted once" and told[2].startswith("line 4 (b)")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": {"text": float("nan")}}, "loss on text is nan, not a finite number above 0"),
        ({"losses": {"text": float("inf")}}, "loss on text is inf"),
        ({"losses": {}}, "losses is {}, not losses by kind of data"),
        ({"active": 0.0}, "active is 0.0, not a finite number above 0"),
        ({"tokens": -1.0}, "tokens is -1.0, not a finite number above 0"),
        ({"tokens": "many"}, "tokens is 'many', not a number"),
        ({"seed": 0.5}, "seed is 0.5, not a whole number"),
        ({"family": "middle"}, "unknown family 'middle'; known are early, late"),
        ({"vision": 2e9}, "vision 2e+09 is more than active 1e+09"),
        ({"vision_tokens": 30e9}, "vision_tokens 3e+10 is more than tokens 2e+10"),
        ({"colour": 1}, "unknown keys colour; known are run"),
    ],
)
def test_a_line_that_is_no_point_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    file = lines(tmp_path / NAME, asdict(point("a")), {**asdict(point("b")), **changes})
    found = read(file)
    assert [one.run for one in found.points] == ["a"]
    [fault] = found.faults
    assert str(fault).startswith("line 2 (b): ") and message in fault.what


def test_missing_keys_and_other_json_are_named(tmp_path: Path) -> None:
    short = asdict(point("b"))
    del short["tokens"], short["losses"]
    found = read(lines(tmp_path / NAME, "[1]", "", short))
    assert [str(fault) for fault in found.faults] == [
        "line 1: list where an object is expected",
        "line 3 (b): no tokens, losses",
    ]


def test_no_manifest_and_a_diverged_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist; tools/sweep\.py writes it"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"run 'a' cannot go into .* loss on text is nan"):
        append(tmp_path / NAME, point("a", {"text": float("nan")}))
    assert not (tmp_path / NAME).exists()


def test_what_must_not_be_mixed_is_chosen(tmp_path: Path) -> None:
    points = [
        point("a"),
        point("b", mixture="30-30-40"),
        point("c", family="late"),
        point("d", family="sparse", experts=8),
        point("e", family="sparse", experts=4),
    ]
    with pytest.raises(ConfigError, match=r"3 values of family .* early \(2 runs\), late \(1 runs\).* --family"):
        select(points)
    with pytest.raises(ConfigError, match=r"2 values of mixture .*30-30-40 \(1 runs\).* --mixture"):
        select(points, "early")
    with pytest.raises(ConfigError, match=r"2 values of experts .* 4 \(1 runs\), 8 .*--experts"):
        select(points, "sparse")
    with pytest.raises(ConfigError, match="no run has mixture '1-1-98'; --mixture may be 30-30-40, 45-45-10"):
        select(points, "early", "1-1-98")
    assert [one.run for one in select(points, "early", "45-45-10")] == ["a"]
    assert [one.run for one in select(points, "sparse", experts=4)] == ["e"]


def test_means_over_different_kinds_are_not_compared() -> None:
    points = [point("a", {"text": 3.0}), point("b", {"text": 3.0, "caption": 2.0})]
    with pytest.raises(ConfigError, match=r"\(caption, text; text\), so their means.*--kind \(text\)"):
        select(points)
    assert len(select(points, kind="text")) == 2
    with pytest.raises(ConfigError, match=r"1 of 2 runs have no loss on 'caption', the first is 'a'"):
        select(points, kind="caption")
