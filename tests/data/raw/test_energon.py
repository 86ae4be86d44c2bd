"""A WebDataset prepared for Megatron-Energon is read as it is: shards, split, excluded samples, fields."""

import json
from pathlib import Path

import fsspec
import pytest

from megatron_nmm.data.raw.energon import braces
from megatron_nmm.errors import DataError
from tests.data.corpora import png
from tests.data.raw.files import captions, read, records, rejections, tar

SPLIT = """
exclude:
- shards/shard_003.tar
- shards/shard_001.tar/001
split_parts:
  train:
  - shards/shard_{000..001}.tar
  - shards/shard_003.tar
  val:
  - shards/shard_002.tar
  test: []
"""
DATASET = """
sample_type:
  __module__: megatron.energon
  __class__: CaptioningSample
field_map:
  image: webp,png
  caption: json[alt]
"""


def _prepared(folder: Path, **meta: str) -> Path:
    """A prepared folder with four shards of two samples and a tar that is not listed."""
    (folder / "shards").mkdir(parents=True)
    for number in range(5):
        members = [
            member
            for key in ("000", "001")
            for member in ((f"{key}.png", png(number, 2)), (f"{key}.json", json.dumps({"alt": f"{number}"}).encode()))
        ]
        (folder / "shards" / f"shard_{number:03d}.tar").write_bytes(tar(members))
    (folder / ".nv-meta").mkdir()
    for name, content in meta.items():
        (folder / ".nv-meta" / name.replace("_", ".")).write_text(content)
    return folder


def _info(count: int = 4) -> str:
    counts = {f"shards/shard_{number:03d}.tar": 2 for number in range(count)}
    return json.dumps({"energon_version": "7.1.0", "shard_counts": counts})


def test_the_training_part_is_read_as_the_field_map_says(tmp_path: Path) -> None:
    found = read(_prepared(tmp_path / "wds", _info_json=_info(), split_yaml=SPLIT, dataset_yaml=DATASET))
    assert [one.id for one in records(found)] == [
        "shards/shard_000.tar:000",
        "shards/shard_000.tar:001",
        "shards/shard_001.tar:000",
    ]
    assert [one.segments for one in records(found)] == [("", "0"), ("", "0"), ("", "1")]
    assert records(found)[0].images[0].data == png(0, 2)
    (rejection,) = rejections(found)
    assert rejection.where == "shards/shard_001.tar:001" and rejection.reason == "the split of the dataset excludes it"


def test_another_part_is_named_behind_the_folder(tmp_path: Path) -> None:
    folder = _prepared(tmp_path / "wds", _info_json=_info(), split_yaml=SPLIT, dataset_yaml=DATASET)
    assert {one.segments[1] for one in records(read(f"{folder}#val"))} == {"2"}
    with pytest.raises(DataError, match="has no part 'valid' of the split; it has train, val, test"):
        read(f"{folder}#valid")
    with pytest.raises(DataError, match="lists no shard in part 'test'"):
        read(f"{folder}#test")


def test_the_older_info_file_and_no_split(tmp_path: Path) -> None:
    info = "shard_counts:\n  shards/shard_001.tar: 2\n  shards/shard_000.tar: 2\n"
    folder = _prepared(tmp_path / "wds", _info_yaml=info, dataset_yaml=DATASET)
    assert [one.segments[1] for one in records(read(folder))] == ["1", "1", "0", "0"]
    with pytest.raises(DataError, match="has no split, so no part 'val'"):
        read(f"{folder}#val")


def test_without_a_field_map_the_layout_is_recognised(tmp_path: Path) -> None:
    crude = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
    folder = _prepared(tmp_path / "wds", _info_json=_info(1), dataset_yaml=crude)
    (folder / "shards" / "shard_000.tar").write_bytes(tar(captions(2)))
    assert [one.kind for one in read(folder)] == ["caption", "caption"]


def test_a_prepared_folder_behind_a_url(tmp_path: Path) -> None:
    folder = _prepared(tmp_path / "wds", _info_json=_info(), split_yaml=SPLIT, dataset_yaml=DATASET)
    fsspec.filesystem("memory").put(f"{folder}/", "/energon", recursive=True)
    assert read("memory://energon") == read(folder)


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ({}, r"\.nv-meta has neither \.info\.json nor \.info\.yaml nor split\.yaml"),
        ({"_info_json": "{"}, r"\.info\.json is damaged"),
        ({"_info_json": "[]"}, r"\.info\.json is damaged \(no mapping\)"),
        ({"_info_json": "{}"}, "shard_counts is no mapping"),
        ({"_info_json": _info(9)}, r"lists shards/shard_005\.tar, which does not exist"),
        ({"_info_json": _info(), "split_yaml": "a: [: b"}, r"split\.yaml is damaged"),
        ({"_info_json": _info(), "dataset_yaml": "field_map: 3"}, "field_map is no mapping"),
        ({"_info_json": _info(), "dataset_yaml": "a: !!python/object/apply:os.getcwd []"}, r"dataset\.yaml is damaged"),
    ],
)
def test_damaged_descriptions_are_named(tmp_path: Path, meta: dict[str, str], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read(_prepared(tmp_path / "wds", **meta))


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a{08..10}.tar", ["a08.tar", "a09.tar", "a10.tar"]),
        ("a{8..10}", ["a8", "a9", "a10"]),
        ("{a,b}{0..1}", ["a0", "a1", "b0", "b1"]),
    ],
)
def test_braces_stand_for_many_names(name: str, names: list[str]) -> None:
    assert list(braces(name)) == names
