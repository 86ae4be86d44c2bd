"""Every line of a JSONL file is a record or a rejection that says where and why."""

from hashlib import sha256
from pathlib import Path

import pytest

from megatron_nmm.data.raw import jsonl as module
from megatron_nmm.data.raw.jsonl import lines, parse, read_jsonl
from megatron_nmm.data.raw.record import Record, Rejection
from tests.data.raw.files import jsonl, read, rejections


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "a", "te', "broken JSON: Unterminated string"),
        (b'{"id": "\xff"}', "not UTF-8 at byte 8"),
        (b"[1]", "the line is a JSON list, not an object"),
        (b"[" * 100_000, "broken JSON"),
        (b'{"id": ' + b"1" * 5000 + b"}", "broken JSON"),
        (b"<html>", "broken JSON"),
    ],
)
def test_bad_lines_say_why(line: bytes, reason: str) -> None:
    rejection = parse(line, None, "f@0", "f:3")
    assert isinstance(rejection, Rejection)
    assert reason in rejection.reason and rejection.where == "f:3"


def test_a_half_written_file_keeps_what_is_whole(tmp_path: Path) -> None:
    line = jsonl({"id": "a", "text": "red"}).rstrip()
    (tmp_path / "half.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n \n" + line[:15])
    first, second = read(tmp_path / "half.jsonl")
    assert isinstance(first, Record) and first.sha256 == sha256(line).digest() and first.where == "half.jsonl:1"
    assert isinstance(second, Rejection) and second.where == "half.jsonl:3"
    assert second.reason.endswith("the file ends in this line: it may have been cut")


def test_a_last_line_without_an_end_is_a_record(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "red"}')
    (record,) = read(tmp_path / "a.jsonl")
    assert isinstance(record, Record) and record.id == "a.jsonl@0"


def test_too_long_lines_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 20)
    content = b"short\n" + b"x" * 90 + b"\nnext\n" + b"y" * 50
    found = list(lines((at, content[at : at + 8]) for at in range(0, len(content), 8)))
    assert [(line.offset, line.data, line.ended) for line in found] == [
        (0, b"short", True),
        (6, None, True),
        (97, b"next", True),
        (102, None, False),
    ]
    reasons = [one.reason for one in rejections([one for _, one in read_jsonl(iter([(1, content)]), "f", 0, None)])]
    assert "broken JSON" in reasons[0] and "more than 20 bytes" in reasons[3]
