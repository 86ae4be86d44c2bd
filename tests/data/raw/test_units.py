"""Units give the same records in the same order whatever the cut, and say what they are recognised by."""

import pickle
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_nmm.data.raw.record import Record, Rejection
from megatron_nmm.data.raw.schema import Schema
from megatron_nmm.data.raw.units import plan_units, read_unit, unit_identity
from megatron_nmm.errors import DataError
from tests.data.raw.files import jsonl, pack, read, records, rejections

LINE = st.one_of(
    st.builds(lambda text: jsonl({"text": text}).rstrip(b"\n"), st.text(max_size=40)),
    st.sampled_from([b"", b"\r", b" ", b'{"id": "x", "text": "y"}\r', b"[1]", b'{"half', b"\xff\xfe"]),
)


def _what(found: list[Record | Rejection]) -> list[tuple[object, ...]]:
    """What must not depend on the cut; the place in a message may count lines or bytes."""
    return [
        (one.id, one.kind, one.segments, one.sha256) if isinstance(one, Record) else (one.id, one.reason)
        for one in found
    ]


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(LINE, max_size=30), ended=st.booleans(), unit_bytes=st.integers(1, 400))
def test_any_cut_gives_the_same_records(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ended: bool, unit_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n" * ended)
    units = plan_units([str(path)], unit_bytes)
    ends = [unit.last for unit in units]
    assert [unit.first for unit in units] == [0, *ends[:-1]] and ends[-1] == path.stat().st_size
    assert [unit.number for unit in units] == list(range(len(units)))
    assert all(b"\n" not in path.read_bytes()[unit.first : unit.last][unit_bytes - 1 : -1] for unit in units)
    assert _what(read(path, unit_bytes=unit_bytes)) == _what(read(path))


@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_packed_files_give_the_records_of_plain_ones(tmp_path: Path, packing: str) -> None:
    content = jsonl(*({"text": f"red {number}"} for number in range(50)))
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / f"a.jsonl.{packing}").write_bytes(pack(content, packing))
    (unit,) = plan_units([str(tmp_path / f"a.jsonl.{packing}")], unit_bytes=20)
    packed = [record for _, record in read_unit(unit, None)]
    plain = records(read(tmp_path / "a.jsonl"))
    assert [one.sha256 for one in records(packed)] == [one.sha256 for one in plain]
    assert packed[1].id == f"a.jsonl.{packing}@18" and plain[1].id == "a.jsonl@18"


@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_a_cut_packed_file_keeps_what_stands_before(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"a.jsonl.{packing}"
    whole = pack(jsonl(*({"text": f"{number * 7919} red"} for number in range(20_000))), packing)
    path.write_bytes(whole[: len(whole) * 3 // 4])
    found = read(path)
    (rejection,) = rejections(found)
    assert len(records(found)) > 10_000 and found[-1] is rejection
    assert rejection.where == f"{path.name}:{len(found)}" and "the records before it are kept" in rejection.reason


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.tar", "a.tar.gz"])
def test_an_empty_file_is_rejected(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert read(tmp_path / name) == [Rejection("", name, "the file is empty")]


def test_progress_ends_at_the_bytes_of_the_unit(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(*({"text": f"red {number}"} for number in range(50))))
    for unit in plan_units([str(tmp_path / "a.jsonl")], 300):
        done = [done for done, _ in read_unit(unit, None)]
        assert done == sorted(done) and done[-1] == unit.bytes == unit.last - unit.first


def test_a_schema_that_fits_no_record_lists_the_fields(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"broken\n" + jsonl({"content": "red", "url": "u"}) * 300)
    with pytest.raises(DataError, match=r"a.jsonl:2: the layout is unknown: the record has content, url; .* --schema"):
        read(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="field 'body' is missing; the record has content, url"):
        read(tmp_path / "a.jsonl", schema=Schema.parse("text=body"))
    found = read(tmp_path / "a.jsonl", schema=Schema.parse("text=content,id=url"))
    assert len(records(found)) == 300 and records(found)[0].id == "u"


def test_single_records_without_the_fields_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl({"text": "red"}, {"body": "red"}, {"body": "red"}))
    found = read(tmp_path / "a.jsonl")
    assert isinstance(found[0], Record) and len(rejections(found)) == 2
    # A unit that holds no other record is no reason to doubt the schema.
    assert _what(read(tmp_path / "a.jsonl", unit_bytes=1)) == _what(found)


def test_identity_is_that_of_the_bytes(tmp_path: Path) -> None:
    content = jsonl(*({"text": f"red {number}"} for number in range(50)))
    (tmp_path / "a.jsonl").write_bytes(content)
    with fsspec.open("memory://identity/a.jsonl", "wb") as file:
        file.write(content)
    units = plan_units([str(tmp_path / "a.jsonl")], 300)
    identities = [unit_identity(unit) for unit in units]
    assert identities == [unit_identity(unit) for unit in plan_units(["memory://identity/a.jsonl"], 300)]
    assert len({one["fingerprint"] for one in identities}) == len(units)
    assert identities[0] | {"fingerprint": ""} == {
        "name": "a.jsonl",
        "format": "jsonl",
        "bytes": len(content),
        "first": 0,
        "last": units[0].last,
        "fingerprint": "",
    }
    (tmp_path / "a.jsonl").write_bytes(content.replace(b"red 30", b"red 31"))
    changed = [unit_identity(unit) for unit in units]
    assert [old != new for old, new in zip(identities, changed, strict=True)].count(True) == 1


def test_units_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl({"text": "red"}))
    units = plan_units([str(tmp_path / "a.jsonl")])
    assert pickle.loads(pickle.dumps(units)) == units  # noqa: S301  our own bytes


def test_default_units_are_of_one_size_within_limits(tmp_path: Path) -> None:
    with open(tmp_path / "a.jsonl", "wb") as file:
        file.truncate(17 << 20)
    # No line end anywhere: such a file cannot be cut.
    assert len(plan_units([str(tmp_path / "a.jsonl")])) == 1
    (tmp_path / "b.jsonl").write_bytes(b"\n" * (17 << 20))
    sizes = [unit.bytes for unit in plan_units([str(tmp_path / "b.jsonl")])]
    assert len(sizes) == 3 and sum(sizes) == 17 << 20 and max(sizes) - min(sizes) <= 3
