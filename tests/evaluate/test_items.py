"""Questions are read whole or refused with their line."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_nmm.errors import DataError
from megatron_nmm.evaluate.items import read_items
from tests.data.corpora import png


def _write(folder: Path, *lines: Any) -> Path:
    file = folder / "questions.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return file


def test_items_are_read_and_images_when_they_are_looked_at(tmp_path: Path) -> None:
    asked = {"prompt": "<image> and <image>?", "images": ["a.png", "late.png"], "references": ["x", "y"]}
    file = _write(tmp_path, {"prompt": "two?", "references": ["2"], "id": 7, "kind": "caption"}, "", asked)
    (tmp_path / "a.png").write_bytes(png(1))
    first, second = read_items(file)
    assert (first.id, first.kind, first.prompt[0], first.references) == ("7", "caption", "two?", ("2",))
    assert (second.id, second.kind, second.references) == ("3", "interleaved", ("x", "y"))
    assert len(second.prompt[1]) == 2 and second.prompt[1][0] == png(1)
    with pytest.raises(DataError, match=r"late\.png cannot be read: No such file"):
        list(second.prompt[1])
    (tmp_path / "late.png").write_bytes(png(2))
    assert list(second.prompt[1]) == [png(1), png(2)]
    assert [item.id for item in read_items(file, most=1)] == ["7"]
    assert read_items(file, tmp_path / "elsewhere")[1].prompt[1].paths[0] == tmp_path / "elsewhere" / "a.png"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "questions.jsonl:2: Expecting"),
        ([1], ":2: is no object of id, kind, prompt, images, references alone"),
        ({"prompt": "a", "references": ["b"], "answer": "c"}, ":2: is no object of"),
        ({"prompt": 1, "references": ["b"]}, ":2: prompt is no text"),
        ({"prompt": "<image>", "images": "a.png", "references": ["b"]}, ":2: prompt is no text, or images is no list"),
        ({"prompt": "a"}, ":2: references is no list of texts with at least one"),
        ({"prompt": "a", "references": []}, ":2: references is no list of texts with at least one"),
        ({"prompt": "a", "references": "b"}, ":2: references is no list of texts with at least one"),
        ({"prompt": "<image>", "references": ["b"]}, ":2: prompt has 1 <image> markers but 0 images"),
        ({"prompt": "a", "images": ["a.png"], "references": ["b"]}, ":2: prompt has 0 <image> markers but 1 images"),
        ({"prompt": "<image>", "images": ["../a.png"], "references": ["b"]}, ":2: image ../a.png leads out of"),
        ({"prompt": "<image>", "images": ["/a.png"], "references": ["b"]}, ":2: image /a.png leads out of"),
        ({"prompt": "a", "kind": "video", "references": ["b"]}, ":2: kind 'video' is none of text, caption, interlea"),
    ],
)
def test_a_bad_line_is_named(line: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        read_items(_write(tmp_path, {"prompt": "a", "references": ["b"]}, line))
    assert told in str(refused.value)


def test_a_file_that_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read: .*give a JSONL file of id, kind, prompt, images, references"):
        read_items(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="holds no item"):
        read_items(_write(tmp_path, ""))
    (tmp_path / "questions.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"cannot be read: .*utf-8"):
        read_items(tmp_path / "questions.jsonl")
