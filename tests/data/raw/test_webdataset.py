"""Members of one key are one record; a bad member costs its own sample only, and says why."""

import json
import tarfile
from pathlib import Path

import pytest

from megatron_nmm.data.raw.record import RawImage, Record, Rejection
from megatron_nmm.data.raw.schema import Schema
from megatron_nmm.errors import DataError
from tests.data.corpora import png
from tests.data.raw.files import Given, captions, pack, read, records, rejections, special, tar

IMAGE = png(0, side=2)


def _read(folder: Path, members: Given, schema: str = "") -> list[Record | Rejection]:
    (folder / "a.tar").write_bytes(tar(members))
    return read(folder / "a.tar", schema=Schema.parse(schema) if schema else None)


def _json(**values: object) -> bytes:
    return json.dumps(values).encode()


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.tar.zst"])
def test_images_with_captions(tmp_path: Path, name: str) -> None:
    packing = {"a.tar": "", "a.tar.zst": "zst"}.get(name, "gz")
    (tmp_path / name).write_bytes(pack(tar(captions(3, "folder.d/")), packing))
    found = records(read(tmp_path / name))
    assert [one.id for one in found] == [f"{name}:folder.d/{number:03d}" for number in range(3)]
    assert [one.segments for one in found] == [("", f"thing {number}") for number in range(3)]
    assert found[2].images == (RawImage("folder.d/002.png", png(2, side=2)),) and found[2].kind == "caption"
    assert len({one.sha256 for one in found}) == 3


@pytest.mark.parametrize(
    ("members", "kind", "segments"),
    [
        ([("k.txt", b"red")], "text", ("red",)),
        ([("k.json", _json(text="red"))], "text", ("red",)),
        ([("k.jpg", IMAGE), ("k.caption", b"red")], "caption", ("", "red")),
        ([("k.WEBP", IMAGE), ("k.json", _json(caption="red", kind="photo", image="k"))], "caption", ("", "red")),
        ([("k.jpg", IMAGE), ("k.txt", b"red"), ("k.json", _json(text="no", caption="no"))], "caption", ("", "red")),
        ([("k.0.jpg", IMAGE), ("k.1.jpg", IMAGE), ("k.txt", b"<image>, <image>!")], "interleaved", ("", ",", "!")),
        ([("k.0.jpg", IMAGE), ("k.json", _json(texts=["a", None], images=[None, "0.jpg"]))], "interleaved", ("a", "")),
        ([("k.jpg", IMAGE), ("k.json", _json(kind="caption", text="<image> a"))], "caption", ("", "a")),
    ],
)
def test_known_forms_of_a_sample(
    tmp_path: Path, members: list[tuple[str, bytes]], kind: str, segments: tuple[str, ...]
) -> None:
    (record,) = _read(tmp_path, members)
    assert isinstance(record, Record), record
    assert (record.kind, record.segments) == (kind, segments)
    assert all(image.data == IMAGE for image in record.images) and len(record.images) == len(segments) - 1


def test_a_json_member_can_bring_the_id(tmp_path: Path) -> None:
    (record,) = _read(tmp_path, [("k.txt", b"red"), ("k.json", _json(id="own"))])
    assert record.id == "own"


@pytest.mark.parametrize(
    ("schema", "segments"),
    [
        ("image=webp;jpg,caption=txt", ("", "t")),
        ("image=jpg,caption=json[caption]", ("", "c")),
        ("image=jpg,caption=detail.json[a][0]", ("", "d")),
        ("images=jpg,caption=alt", ("", "e")),
        ("text=txt", ("t",)),
    ],
)
def test_a_schema_names_members_and_fields_of_json(tmp_path: Path, schema: str, segments: tuple[str, ...]) -> None:
    members = [("k.jpg", IMAGE), ("k.txt", b"t"), ("k.json", _json(caption="c", alt="e"))]
    (record,) = _read(tmp_path, [*members, ("k.detail.json", _json(a=["d"]))], schema)
    assert isinstance(record, Record) and record.segments == segments


def test_a_schema_that_fits_no_sample_lists_what_there_is(tmp_path: Path) -> None:
    members = [("k.jpg", IMAGE), ("k.json", _json(alt="e"))]
    with pytest.raises(DataError, match=r"field 'txt' is missing; the sample has jpg, json, json\[alt\]"):
        _read(tmp_path, members, "image=jpg,caption=txt")
    with pytest.raises(DataError, match="the layout is unknown: the record has alt, images"):
        _read(tmp_path, members)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("x.jpg", special(tarfile.SYMTYPE, "/etc/passwd")), ("x.txt", b"t")], "'x.jpg' is a symbolic link"),
        ([("x.jpg", special(tarfile.LNKTYPE, "000.png")), ("x.txt", b"t")], "'x.jpg' is a hard link"),
        ([("x.jpg", special(tarfile.CHRTYPE)), ("x.txt", b"t")], "'x.jpg' is a device"),
        ([("/x.jpg", IMAGE), ("/x.txt", b"t")], "member '/x.jpg' leaves its folder"),
        ([("a/../../x.jpg", IMAGE), ("a/../../x.txt", b"t")], "member 'a/../../x.jpg' leaves its folder"),
        ([("x.jpg", IMAGE), ("x.jpg", IMAGE), ("x.txt", b"t")], "there are two members 'x.jpg'"),
        ([("x.jpg", IMAGE), ("x.txt", b"\xff")], "member 'x.txt' is not UTF-8 at byte 0"),
        ([("x.jpg", IMAGE), ("x.json", b"{")], "member 'x.json' is broken JSON"),
        ([("x.jpg", IMAGE), ("x.json", b"[]")], "member 'x.json' is a JSON list, not an object"),
        ([("x.jpg", IMAGE), ("x.txt", b"")], "the text is empty"),
        ([("x.jpg", IMAGE)], "the layout is unknown"),
        ([("x.jpg", IMAGE), ("x.png", IMAGE), ("x.txt", b"t")], "0 <image> markers but there are 2 images"),
        ([("README", b"red")], "no dot"),
        ([("._x.jpg", b"mac")], "nothing before the first dot"),
        ([("link", special(tarfile.SYMTYPE, "a"))], "a symbolic link"),
    ],
)
def test_a_bad_sample_costs_itself_only(tmp_path: Path, members: Given, reason: str) -> None:
    found = _read(tmp_path, [*captions(2), *members, *captions(2, "z")])
    (rejection,) = rejections(found)
    assert reason in rejection.reason and rejection.where.startswith("a.tar:")
    assert [one.id for one in records(found)] == [f"a.tar:{key}" for key in ("000", "001", "z000", "z001")]


def test_a_name_that_is_no_text_is_shown_escaped(tmp_path: Path) -> None:
    found = _read(tmp_path, [("000\udcff.txt", b"red"), ("x\udcff", b"red")])
    assert [one.where for one in found] == ["a.tar:x\\udcff", "a.tar:000\\udcff"]


@pytest.mark.parametrize(("blocks", "whole"), [(0.5, 0), (4, 0), (6, 1), (6.5, 1), (8, 1), (8.5, 1)])
def test_a_cut_tar_keeps_the_samples_before(tmp_path: Path, blocks: float, whole: int) -> None:
    content = tar(captions(2), tarfile.USTAR_FORMAT)
    (tmp_path / "a.tar").write_bytes(content[: int(blocks * 512)])
    found = read(tmp_path / "a.tar")
    # The last sample before the cut may lack members, so it is not used.
    assert len(records(found)) == whole
    (rejection,) = rejections(found)
    assert found[-1] is rejection and "it was cut" in rejection.reason
    assert rejection.where.startswith("a.tar")
