"""Every line of a JSONL file is a record or a rejection that says where and why."""

import json
from pathlib import Path

import pytest

from megatron_nmm.data.records import Record, Rejection, parse, read_jsonl

GOOD = {"id": "a", "kind": "caption", "text": "<image> red", "images": ["a.png"]}


def test_a_good_record() -> None:
    record = parse(json.dumps(GOOD).encode(), "f:1")
    assert isinstance(record, Record)
    assert (record.id, record.kind, record.text, record.images) == ("a", "caption", "<image> red", ("a.png",))
    assert len(record.sha256) == 32


def test_images_may_be_left_out() -> None:
    assert isinstance(parse(b'{"id": "a", "kind": "text", "text": "red"}', "f:1"), Record)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "a", "kind": "te', "broken JSON"),
        (b'{"id": "\xff"}', "not UTF-8 at byte 8"),
        (b"[1]", "the line is a JSON list, not an object"),
        (b"[" * 100_000, "broken JSON"),
        (b'{"id": "a", "kind": "text"}', "field 'text' is missing; the record has id, kind"),
        (b"{}", "field 'id' is missing; the record has no fields"),
        (b'{"id": 7, "kind": "text", "text": "red"}', "field 'id' is not a string"),
        (b'{"id": "", "kind": "text", "text": "red"}', "field 'id' is empty"),
        (b'{"id": "a", "kind": "video", "text": "red"}', "kind 'video' is not one of text, caption, interleaved"),
        (b'{"id": "a", "kind": "text", "text": " "}', "the text is empty"),
        (b'{"id": "a", "kind": "caption", "text": "<image> ", "images": ["i"]}', "the text is empty"),
        (b'{"id": "a", "kind": "text", "text": "r", "images": "i"}', "field 'images' is not a list of paths"),
        (b'{"id": "a", "kind": "text", "text": "r", "images": [1]}', "field 'images' is not a list of paths"),
        (b'{"id": "a", "kind": "text", "text": "r<image>"}', "the text has 1 <image> markers but there are 0 images"),
        (b'{"id": "a", "kind": "text", "text": "r", "images": ["i"]}', "has 0 <image> markers but there are 1 images"),
        (b'{"id": "a", "kind": "text", "text": "\\ud800"}', "field 'text' holds half of a surrogate pair"),
    ],
)
def test_bad_lines_say_why(line: bytes, reason: str) -> None:
    rejection = parse(line, "f.jsonl:3")
    assert isinstance(rejection, Rejection)
    assert reason in rejection.reason
    assert rejection.where == "f.jsonl:3"


def test_a_half_written_file_keeps_what_is_whole(tmp_path: Path) -> None:
    line = json.dumps(GOOD).encode()
    path = tmp_path / "half.jsonl"
    path.write_bytes(line + b"\r\n\n" + line[:20])
    (done, first), (end, second) = read_jsonl(path)
    assert isinstance(first, Record) and isinstance(second, Rejection)
    assert first == parse(line, "half.jsonl:1")
    assert second.where == "half.jsonl:3"
    assert (done, end) == (len(line) + 2, len(line) + 23)
