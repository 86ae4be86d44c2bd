"""Rows of a Parquet file are records, by row groups, in bounded memory; a wrong file or column is named."""

from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from megatron_nmm.data.raw.record import RawImage, Rejection
from megatron_nmm.data.raw.schema import Schema
from megatron_nmm.data.raw.units import plan_units, read_unit, unit_identity
from megatron_nmm.errors import DataError
from tests.data.raw.files import read, records, rejections

ENCODED = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})


def _write(path: Path, rows: list[dict[str, Any]], group: int = 100, **types: Any) -> Path:
    table = pyarrow.Table.from_pylist(rows)
    for name, kind in types.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    pyarrow.parquet.write_table(table, path, row_group_size=group)
    return path


@pytest.mark.parametrize(
    ("rows", "kind", "images"),
    [
        ([{"text": "red"}], "text", ()),
        ([{"kind": "caption", "text": "<image> red", "images": ["a"]}], "caption", (RawImage("a", None),)),
        ([{"image": b"png", "caption": "red"}], "caption", (RawImage("image[0]", b"png"),)),
        ([{"image": {"bytes": b"png", "path": "a"}, "text": "r"}], "caption", (RawImage("image[0]", b"png"),)),
        ([{"texts": ["a", None], "images": [None, b"png"]}], "interleaved", (RawImage("images[1]", b"png"),)),
        ([{"texts": ["a", None], "images": [None, "a.png"]}], "interleaved", (RawImage("a.png", None),)),
    ],
)
def test_layouts(tmp_path: Path, rows: list[dict[str, Any]], kind: str, images: tuple[RawImage, ...]) -> None:
    (record,) = records(read(_write(tmp_path / "a.parquet", rows)))
    assert (record.id, record.kind, record.images) == ("a.parquet:0", kind, images)


def test_a_text_that_is_not_utf8_costs_its_row_only(tmp_path: Path) -> None:
    texts = pyarrow.array([b"red", b"\xff", b"blue"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    first, bad, last = read(tmp_path / "a.parquet")
    assert bad == Rejection("", "a.parquet:1", "a text is not UTF-8 at byte 0")
    assert [one.segments for one in records([first, last])] == [("red",), ("blue",)]


def test_a_list_of_encoded_images(tmp_path: Path) -> None:
    rows = [{"text": "<image> or <image>?", "images": [{"bytes": b"1", "path": "x"}, {"bytes": b"2", "path": "x"}]}]
    (record,) = records(read(_write(tmp_path / "a.parquet", rows, images=pyarrow.list_(ENCODED))))
    assert record.images == (RawImage("images[0]", b"1"), RawImage("images[1]", b"2"))


@pytest.mark.parametrize("unit_bytes", [1, 300, 1 << 30])
def test_any_cut_gives_the_same_records(tmp_path: Path, unit_bytes: int) -> None:
    rows: list[dict[str, Any]] = [{"text": f"red {number}" if number % 7 else None} for number in range(100)]
    path = _write(tmp_path / "a.parquet", rows, group=9)
    units = plan_units([str(path)], unit_bytes)
    assert [unit.first for unit in units[1:]] == [unit.last for unit in units[:-1]]
    assert (units[0].first, units[-1].last) == (0, 12)
    assert (len(units) == 12) == (unit_bytes == 1) and (len(units) == 1) == (unit_bytes == 1 << 30)
    found = read(path, unit_bytes=unit_bytes)
    assert [one.where for one in found] == [f"a.parquet:{number}" for number in range(100)]
    assert found == read(path)
    assert len(rejections(found)) == 15 and "field 'text' is not a string" in rejections(found)[0].reason
    for unit in units:
        done = [done for done, _ in read_unit(unit, None)]
        assert done == sorted(done) and done[-1] == unit.bytes


def test_memory_does_not_grow_with_the_row_group(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([{"image": bytes([number]) * 1_000_000, "text": "red"} for number in range(48)])
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path, row_group_size=48, write_batch_size=1)
    before, most = pyarrow.total_allocated_bytes(), 0
    for unit in plan_units([str(path)]):
        for _ in read_unit(unit, None):
            most = max(most, pyarrow.total_allocated_bytes() - before)
    assert 1_000_000 < most < 24_000_000


def test_files_behind_urls(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.parquet", [{"text": f"red {number}"} for number in range(20)])
    with fsspec.open("memory://parquet/a.parquet", "wb") as file:
        file.write(path.read_bytes())
    assert read("memory://parquet/a.parquet") == read(path)
    (local,), (remote,) = plan_units([str(path)]), plan_units(["memory://parquet/a.parquet"])
    assert unit_identity(local) == unit_identity(remote)


def test_a_row_that_differs_has_another_hash(tmp_path: Path) -> None:
    rows = [{"image": image, "text": text} for image in (b"1", b"2") for text in ("red", "blue")]
    found = records(read(_write(tmp_path / "a.parquet", [*rows, rows[0]])))
    assert len({one.sha256 for one in found}) == 4 and found[0].sha256 == found[4].sha256


def test_a_file_without_rows_has_no_records(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == []


def test_a_missing_column_lists_those_there_are(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.parquet", [{"content": "red", "url": "u"}])
    with pytest.raises(DataError, match=r"a.parquet has no column 'text'; its columns are content, url: .* --schema"):
        read(path, schema=Schema(text="text"))
    with pytest.raises(DataError, match=r"a.parquet has an unknown layout; its columns are content, url"):
        read(path)
    (record,) = records(read(path, schema=Schema.parse("text=content,id=url")))
    assert record.id == "u"


@pytest.mark.parametrize("content", [b"<html>no such page</html>" * 10, b"PAR1", b"PAR1" + b"x" * 100 + b"PAR1"])
def test_what_is_no_parquet_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"a.parquet is damaged or no Parquet file .*; fetch it again"):
        plan_units([str(tmp_path / "a.parquet")])


def test_damage_inside_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.parquet", [{"text": f"{number} red"} for number in range(3000)], group=1000)
    content = bytearray(path.read_bytes())
    content[4:2000] = b"\xff" * 1996
    units = plan_units([str(path)], 1)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a.parquet is damaged"):
        list(read_unit(units[0], None))
    assert all(not isinstance(record, Rejection) for _, record in read_unit(units[1], None))
