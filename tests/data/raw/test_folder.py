"""An input is a file, a folder of raw files in sorted order, or a URL of either; anything else is refused by name."""

from pathlib import Path

import fsspec
import pytest

from megatron_nmm.data.raw.folder import RawFile, expand
from megatron_nmm.errors import DataError
from tests.data.raw.files import captions, jsonl, read, records, tar


def test_a_folder_gives_its_raw_files_in_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/z.tar", "a/image.png", "README.md", ".hidden/c.jsonl", ".d.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(tar(captions(1)) if name.endswith("tar") else jsonl({"text": "red"}))
    assert [file.label for file in expand(str(tmp_path))] == ["a/z.tar", "b.jsonl"]
    assert [one.id for one in records(read(tmp_path))] == ["a/z.tar:000", "b.jsonl@0"]


def test_a_folder_behind_a_url(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/z.jsonl"):
        with fsspec.open(f"memory://folder/raw/{name}", "wb") as file:
            file.write(jsonl({"text": "red"}))
    names = ["a/z.jsonl", "b.jsonl"]
    assert expand("memory://folder/raw") == [RawFile(f"memory://folder/raw/{name}", name) for name in names]
    assert len(records(read("memory://folder/raw/"))) == 2


def test_a_name_may_hold_a_number_sign(tmp_path: Path) -> None:
    (tmp_path / "a#1.jsonl").write_bytes(jsonl({"text": "red"}))
    assert len(read(tmp_path / "a#1.jsonl")) == 1


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    for name in (str(tmp_path / "no.jsonl"), "memory://no/no.jsonl", "memory://no/folder"):
        with pytest.raises(DataError, match=f"input {name} does not exist; give files, folders or URLs"):
            expand(name)
    with pytest.raises(DataError, match=r"holds no raw data; supported are \.jsonl"):
        expand(str(tmp_path))
    (tmp_path / "a.xlsx").write_bytes(b"x")
    with pytest.raises(DataError, match=r"a.xlsx is of no known kind; supported are \.jsonl"):
        read(tmp_path / "a.xlsx")
