"""One shard: what each kind of record becomes, what is stored once, and what is left out with its reason."""

import errno
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from megatron_nmm.data import shard as shard_module
from megatron_nmm.data.image_root import Unreachable
from megatron_nmm.data.indexed import IndexedReader
from megatron_nmm.data.raw.record import Record, Rejection
from megatron_nmm.data.raw.units import plan_units
from megatron_nmm.data.rule import rule_of
from megatron_nmm.data.settings import Settings
from megatron_nmm.data.shard import write_shard
from megatron_nmm.data.tables import read_table
from tests.data.corpora import encode, png, record, settings, write_images, write_jsonl


def _write(
    folder: Path, source: Path, given: Settings, threads: int = 1
) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """(manifest, samples, rejections) of one shard of ``source``."""
    (unit,) = plan_units([str(source)])
    manifest = write_shard(unit, folder / "shard", given, lambda done, samples: threads)
    tables = [read_table(folder / "shard" / f"{name}.parquet").to_pylist() for name in ("samples", "rejected")]
    return manifest, tables[0], tables[1]


def test_views_of_an_image_are_entries_of_one_stored_image(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png(0, side=128))
    rule = rule_of("native", patch=16, image_size=0, min_patches=16, max_patches=64, multi_scale=True, shuffle=2)
    given = settings(tmp_path, rule=rule)
    path = write_jsonl(tmp_path / "a.jsonl", [record(0, "interleaved", ["large.png", "large.png"], words=3)])
    manifest, (row,), _ = _write(tmp_path, path, given)
    views = rule.views(128, 128)
    assert len(views) > 1
    assert row["images"] == [0] * 2 * len(views) and manifest["counts"]["images"] == 1
    assert (row["heights"], row["widths"]) == ([128] * 2 * len(views),) * 2
    assert row["grid_rows"] == [view.grid.rows for view in views] * 2
    assert row["patches"] == 2 * rule.patches(views)
    tokens = IndexedReader(tmp_path / "shard" / "tokens")[0].tolist()
    ids = rule.image_ids(views, given.tokenizer.special)
    assert tokens[: len(ids)] == ids and tokens[-1] == given.tokenizer.eos
    # Images and their layout are no labels; everything else is, with the end and without a first token of text.
    assert row["supervised_tokens"] == len(tokens) - 2 * len(ids)
    assert manifest["counts"]["image_tokens"] == 2 * ids.count(given.tokenizer.image)


def test_embedded_images_pass_through(tmp_path: Path) -> None:
    encoded = [png(seed) for seed in range(3)]
    table = pa.table({"texts": [["red", None, "blue", None]], "images": [[None, encoded[0], None, encoded[1]]]})
    pq.write_table(table, tmp_path / "a.parquet")
    _, (row,), rejected = _write(tmp_path, tmp_path / "a.parquet", settings(tmp_path))
    images = IndexedReader(tmp_path / "shard" / "images")
    assert [images[number].tobytes() for number in row["images"]] == encoded[:2]
    assert rejected == []


def test_images_of_a_tar_pass_through(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in (("x.png", png(0)), ("x.txt", b"red"), ("y.png", b"<html>"), ("y.txt", b"blue")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    manifest, rows, rejected = _write(tmp_path, tmp_path / "a.tar", settings(tmp_path))
    assert [row["kind"] for row in rows] == ["caption"]
    assert IndexedReader(tmp_path / "shard" / "images")[0].tobytes() == png(0)
    assert len(rejected) == 1 and "y.png" in rejected[0]["reason"] and "are no image" in rejected[0]["reason"]
    assert manifest["counts"]["rejected"] == 1


CAPTION = [record(0, "caption", ["a.png"])]


def _cut_png(folder: Path) -> None:
    (folder / "a.png").write_bytes(png(0, side=64)[:-4000])


def _bomb(folder: Path) -> None:
    (folder / "a.png").write_bytes(encode(Image.new("1", (12_000, 12_000)), "PNG"))


def _link(folder: Path) -> None:
    outside = folder.parent / f"{folder.name}-outside.png"
    outside.write_bytes(png(0))
    (folder / "a.png").symlink_to(outside)


@pytest.mark.parametrize(
    ("make", "verify", "reason"),
    [
        (_cut_png, "decode", "image 'a.png': the image cannot be decoded: image file is truncated"),
        (_cut_png, "header", ""),
        (_bomb, "header", "image 'a.png': the image has 12000 x 12000 pixels, more than the limit"),
        (_link, "decode", "image 'a.png' is a link that leaves the image folder; copy the file into it"),
    ],
)
def test_a_bad_image_rejects_its_sample_alone(
    tmp_path: Path, make: Callable[[Path], None], verify: Any, reason: str
) -> None:
    make(tmp_path)
    path = write_jsonl(tmp_path / "a.jsonl", [*CAPTION, record(1, "text")])
    _, samples, rejected = _write(tmp_path, path, replace(settings(tmp_path), verify=verify))
    assert [row["id"] for row in samples] == (["text-1"] if reason else ["caption-0", "text-1"])
    assert [row["reason"][: len(reason)] for row in rejected] == ([reason] if reason else [])


def test_a_link_inside_the_image_folder_is_followed(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "a.png").symlink_to("image-0.png")
    _, samples, _ = _write(tmp_path, write_jsonl(tmp_path / "a.jsonl", CAPTION), settings(tmp_path))
    assert len(samples) == 1


def test_images_can_stand_behind_a_url(tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    files.pipe_file("/pictures/a.png", png(3))
    path = write_jsonl(
        tmp_path / "a.jsonl", [*CAPTION, record(1, "caption", ["b.png"]), record(2, "caption", ["../a"])]
    )
    given = replace(settings(tmp_path), image_root="memory://pictures")
    _, samples, rejected = _write(tmp_path, path, given)
    assert len(samples) == 1 and IndexedReader(tmp_path / "shard" / "images")[0].tobytes() == png(3)
    assert "image 'b.png' cannot be read" in rejected[0]["reason"]
    assert "leaves the image folder" in rejected[1]["reason"]


@pytest.mark.parametrize("root", [None, "memory://down"])
def test_storage_that_fails_stops_the_run_and_blames_no_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str | None
) -> None:
    write_images(tmp_path)
    given = replace(settings(tmp_path), image_root=root or tmp_path)
    fsspec.filesystem("memory").pipe_file("/down/image-0.png", png(0))

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", fail)
    path = write_jsonl(tmp_path / "a.jsonl", [record(0, "caption", ["image-0.png"])])
    with pytest.raises(
        Unreachable, match=r"image 'image-0\.png' cannot be .*Input/output error.* run the same command"
    ):
        _write(tmp_path, path, given)
    assert not (tmp_path / "shard").exists() and not list(tmp_path.glob("*.partial"))


def test_images_are_looked_for_beside_their_input(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_images(tmp_path / "data")
    path = write_jsonl(tmp_path / "data" / "a.jsonl", [record(0, "caption", ["image-0.png"])])
    _, samples, _ = _write(tmp_path, path, replace(settings(tmp_path), image_root=None))
    assert len(samples) == 1


def test_a_sample_without_a_supervised_token_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path)
    path = write_jsonl(tmp_path / "a.jsonl", [record(0, "caption", ["image-0.png"]), record(1, "text")])
    given = settings(tmp_path)
    # A tokenizer that removes white space leaves nothing of a text that holds nothing else.
    encode_many = given.tokenizer.encode_many
    monkeypatch.setattr(given.tokenizer, "encode_many", lambda texts, threads: encode_many([""] * len(texts), threads))
    manifest, samples, rejected = _write(tmp_path, path, given)
    assert samples == [] and [row["id"] for row in rejected] == ["caption-0", "text-1"]
    assert {row["reason"].partition(":")[0] for row in rejected} == {"no supervised token"}
    assert manifest["counts"]["images"] == 0


def test_threads_do_not_change_the_bytes(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [record(n, "text") for n in range(700)])
    for threads in (1, 3):
        (tmp_path / str(threads)).mkdir()
        _write(tmp_path / str(threads), path, settings(tmp_path), threads)
    one, three = ({f.name: f.read_bytes() for f in (tmp_path / n / "shard").iterdir()} for n in ("1", "3"))
    assert one == three


def test_a_batch_is_bounded_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_module, "BATCH_BYTES", 100)
    records: list[tuple[int, Record | Rejection]] = [
        (number, Record(str(number), "text", ("x" * 30,), (), "f", b"")) for number in range(10)
    ]
    assert [(done, len(batch)) for done, batch in shard_module._batches(records)] == [(3, 4), (7, 4), (9, 2)]


def test_a_shard_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [record(0, "text")])
    manifest, *_ = _write(tmp_path, path, settings(tmp_path))
    before = (tmp_path / "shard" / "shard.json").stat().st_mtime_ns
    again, *_ = _write(tmp_path, path, settings(tmp_path))
    assert again == manifest and (tmp_path / "shard" / "shard.json").stat().st_mtime_ns == before
    assert not list(tmp_path.glob("*.partial"))
