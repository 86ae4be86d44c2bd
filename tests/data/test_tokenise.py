"""A corpus holds every usable record once, says why the others are missing, and continues where it was stopped."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_nmm.data.corpus import Corpus
from megatron_nmm.data.indexed import IndexedReader
from megatron_nmm.data.raw.schema import Schema
from megatron_nmm.data.rule import SquareRule
from megatron_nmm.data.tables import read_table
from megatron_nmm.data.tokenise import tokenise
from megatron_nmm.errors import DataError
from megatron_nmm.files.lock import FolderInUse
from tests.data.corpora import content, mixed_records, png, quiet, record, settings, write_images, write_jsonl


def _inputs(folder: Path, counts: tuple[int, ...] = (30, 20, 10)) -> list[Path]:
    """Input files with mixed records of different ids, and their images."""
    write_images(folder)
    paths = []
    for number, count in enumerate(counts):
        records = [values | {"id": f"{number}-{values['id']}"} for values in mixed_records(count)]
        paths.append(write_jsonl(folder / f"part-{number}.jsonl", records))
    return paths


def test_samples_hold_what_the_records_say(tmp_path: Path) -> None:
    write_images(tmp_path)
    given = settings(tmp_path)
    path = write_jsonl(
        tmp_path / "a.jsonl", [record(1, "interleaved", ["image-1.png", "image-0.png"]), record(2, "text")]
    )
    info = tokenise([path], tmp_path / "out", given, quiet)
    shard = tmp_path / "out" / "shards" / "00000"
    first, second = read_table(shard / "samples.parquet").to_pylist()
    tokens = IndexedReader(shard / "tokens")
    image, eos = given.tokenizer.image, given.tokenizer.eos
    assert tokens[0].tolist().count(image) == 8 and tokens[0][-1] == eos
    assert given.tokenizer.decode(tokens[1].tolist()) == "blue round square small"
    assert first["id"] == "interleaved-1" and first["kind"] == "interleaved" and first["source"] == "corpus"
    assert first["tokens"] == len(tokens[0]) and first["patches"] == 8
    # The first token has no label position before it: 8 placeholders and everything after the first are labels.
    assert first["supervised_tokens"] == len(tokens[0]) - 8
    assert second["supervised_tokens"] == len(tokens[1]) - 1 and second["images"] == []
    assert (first["heights"], first["widths"], first["grid_rows"]) == ([8, 8], [8, 8], [2, 2])
    images = IndexedReader(shard / "images")
    assert [images[number].tobytes() for number in first["images"]] == [
        (tmp_path / name).read_bytes() for name in ("image-1.png", "image-0.png")
    ]
    assert info["counts"]["samples"] == 2 and info["counts"]["image_tokens"] == 8
    assert info["tokenizer"]["sha256"] == given.tokenizer.sha256
    assert info["image_rule"] == {"image_size": 8, "patch": 4, "shuffle": 1, "name": "square"}


def test_a_repeated_image_is_stored_once(tmp_path: Path) -> None:
    info = tokenise(_inputs(tmp_path, (30,)), tmp_path / "out", settings(tmp_path), quiet)
    assert info["counts"]["images"] == 5


BAD_RECORDS: list[tuple[dict[str, Any] | bytes, str]] = [
    (b'{"id": "half', "broken JSON"),
    ({"id": "x", "kind": "text"}, "field 'text' is missing"),
    (record(0, "caption", ["gone.png"]), "image 'gone.png' cannot be read: No such file"),
    (record(0, "caption", ["broken.png"]), "image 'broken.png': the bytes are no image"),
    (record(0, "caption", ["empty.png"]), "image 'empty.png': the image file is empty"),
    (record(0, "caption", ["../image-0.png"]), "leaves the image folder"),
    (record(0, "caption", ["/etc/passwd"]), "leaves the image folder"),
    (record(0, "caption", ["nul\0.png"]), "cannot be read"),
    (record(0, "caption", ["."]), "cannot be read: it is not a file"),
    ({"id": "m", "kind": "caption", "text": "red", "images": ["image-0.png"]}, "has 0 <image> markers"),
    ({"id": "e", "kind": "text", "text": "", "images": []}, "the text is empty"),
]


def test_unusable_records_are_kept_with_their_reason(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"<html>")
    (tmp_path / "empty.png").write_bytes(b"")
    good = json.dumps(record(1, "caption", ["image-0.png"])).encode()
    lines = [values if isinstance(values, bytes) else json.dumps(values).encode() for values, _ in BAD_RECORDS]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([good, *lines]))
    info = tokenise([tmp_path / "a.jsonl"], tmp_path / "out", settings(tmp_path), quiet)
    rejected = read_table(tmp_path / "out" / "shards" / "00000" / "rejected.parquet").to_pylist()
    assert info["counts"]["samples"] == 1 and info["counts"]["rejected"] == len(BAD_RECORDS)
    for number, (row, (_, reason)) in enumerate(zip(rejected, BAD_RECORDS, strict=True)):
        assert reason in row["reason"]
        assert row["where"] == f"a.jsonl:{number + 2}"
    # A record that is rejected for its second image leaves no orphan of its first.
    assert info["counts"]["images"] == 1


def test_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    inputs = _inputs(tmp_path)
    for name in ("one", "two"):
        tokenise(inputs, tmp_path / name, settings(tmp_path), quiet)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_inputs_can_be_appended(tmp_path: Path) -> None:
    inputs = _inputs(tmp_path)
    first = tokenise(inputs[:2], tmp_path / "out", settings(tmp_path), quiet)
    both = tokenise(inputs, tmp_path / "out", settings(tmp_path), quiet)
    tokenise(inputs, tmp_path / "whole", settings(tmp_path), quiet)
    assert first["fingerprint"] != both["fingerprint"]
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_an_output_never_mixes_settings(tmp_path: Path) -> None:
    inputs = _inputs(tmp_path)
    tokenise(inputs[:2], tmp_path / "out", settings(tmp_path), quiet)
    before = content(tmp_path / "out")
    changed = write_jsonl(tmp_path / "changed.jsonl", mixed_records(3))
    refusals: list[tuple[list[Path], Any, str]] = [
        (inputs, settings(tmp_path, seed=1), "was tokenised with another tokenizer"),
        (inputs, settings(tmp_path, rule=SquareRule(16, 4)), "use the same image options or a new --output"),
        (inputs, settings(tmp_path, name="other"), "is a corpus of source 'corpus', not 'other'; use --source corpus"),
        (
            inputs,
            replace(settings(tmp_path), verify="header"),
            "verify-images 'decode', not 'header'; use --verify-images d",
        ),
        (inputs, replace(settings(tmp_path), schema=Schema(text="text")), "with schema None, not {'id': 'id', 'text'"),
        ([*inputs, inputs[1]], settings(tmp_path), "part-1.jsonl is given twice; give each once"),
        ([changed, *inputs[1:]], settings(tmp_path), r"was made from part-0.jsonl .* differs from .*changed.jsonl"),
        (inputs[:1], settings(tmp_path), "has finished shard 00001 but the inputs make 1 shards"),
        ([tmp_path / "none.jsonl"], settings(tmp_path), "none.jsonl does not exist; give files, folders or URLs"),
    ]
    for paths, given, message in refusals:
        with pytest.raises(DataError, match=message):
            tokenise(paths, tmp_path / "out", given, quiet)
        assert content(tmp_path / "out") == before


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    inputs = _inputs(tmp_path)

    def second(done: int, total: int, samples: int) -> None:
        with pytest.raises(FolderInUse, match=r"out is in use by process \d+ on .*--output"):
            tokenise(inputs, tmp_path / "out", settings(tmp_path), quiet)

    info = tokenise(inputs, tmp_path / "out", settings(tmp_path), second)
    assert info["counts"]["samples"] == 60


LIMITED = """
import resource, sys
from pathlib import Path
from megatron_nmm.errors import DataError
from tests.data.corpora import quiet, settings
from megatron_nmm.data.tokenise import tokenise
from megatron_nmm.data.executors.local import LocalExecutor
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    inputs = [folder / "part-0.jsonl", folder / "large.jsonl"]
    tokenise(inputs, folder / "out", settings(folder), quiet, LocalExecutor(int(sys.argv[2])))
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_refuses_keeps_finished_shards(tmp_path: Path, workers: int) -> None:
    # A limit on the size of files stands for a full disk: the write itself fails, in the middle of the second shard.
    (part,) = _inputs(tmp_path, (30,))
    (tmp_path / "large.png").write_bytes(png(0, side=150))
    large = write_jsonl(tmp_path / "large.jsonl", [record(n, "caption", ["large.png"]) for n in range(30)])
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", LIMITED, str(tmp_path), str(workers)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "out failed: File too large; finished shards are kept: make room or fix the permissions" in done.stdout
    # Two workers race: the first shard may not be finished when the second fails, but nothing is half-written.
    left = [path.name for path in (tmp_path / "out" / "shards").iterdir()]
    assert left == ["00000"] or (workers == 2 and not left)
    tokenise([part, large], tmp_path / "out", settings(tmp_path), quiet)
    assert len(Corpus(tmp_path / "out")) == 60


def test_a_file_of_rejections_alone_is_a_shard(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("nothing\n" * 3)
    info = tokenise([tmp_path / "bad.jsonl"], tmp_path / "out", settings(tmp_path), quiet)
    assert (info["counts"]["samples"], info["counts"]["rejected"]) == (0, 3)
    assert len(Corpus(tmp_path / "out")) == 0


def test_an_interrupted_shard_leaves_nothing_half_written(tmp_path: Path) -> None:
    def stop(done: int, total: int, samples: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenise(_inputs(tmp_path), tmp_path / "out", settings(tmp_path), stop)
    assert not list((tmp_path / "out" / "shards").iterdir())


def test_an_input_that_changed_since_is_named(tmp_path: Path) -> None:
    inputs = _inputs(tmp_path)
    tokenise(inputs, tmp_path / "out", settings(tmp_path), quiet)
    before = content(tmp_path / "out")
    with inputs[2].open("a") as file:
        file.write(json.dumps(record(99, "text")) + "\n")
    with pytest.raises(DataError, match=r"shard .*00002 was made from part-2\.jsonl .* keep inputs unchanged"):
        tokenise(inputs, tmp_path / "out", settings(tmp_path), quiet)
    assert content(tmp_path / "out") == before


def test_an_input_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    inputs = _inputs(tmp_path, (3,))

    def change(done: int, total: int, samples: int) -> None:
        with inputs[0].open("a") as file:
            file.write("\n")

    with pytest.raises(DataError, match=r"part-0\.jsonl was changed while it was read; run the same command again"):
        tokenise(inputs, tmp_path / "out", settings(tmp_path), change)
    assert not list((tmp_path / "out" / "shards").iterdir())


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"writing .*file/out failed: Not a directory; .* fix the permissions"):
        tokenise(_inputs(tmp_path), tmp_path / "file" / "out", settings(tmp_path), quiet)
    # A place where not even root may create files.
    with pytest.raises(DataError, match=r"writing /sys/out failed: (Operation not permitted|Permission|Read-only)"):
        tokenise(_inputs(tmp_path), Path("/sys/out"), settings(tmp_path), quiet)


def test_what_killed_workers_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "out" / "shards" / "00000.0a1b2c3d.partial"
    left.mkdir(parents=True)
    (left / "tokens.bin").write_bytes(b"half")
    tokenise(_inputs(tmp_path), tmp_path / "out", settings(tmp_path), quiet)
    assert not left.exists() and len(Corpus(tmp_path / "out")) == 60


def test_progress_counts_all_inputs(tmp_path: Path) -> None:
    inputs = _inputs(tmp_path)
    size = sum(path.stat().st_size for path in inputs)
    told: list[tuple[int, int, int]] = []
    tokenise(inputs[:2], tmp_path / "out", settings(tmp_path), quiet)
    tokenise(inputs, tmp_path / "out", settings(tmp_path), lambda *values: told.append(values))
    # What an earlier run finished counts from the start.
    assert told[0] == (sum(path.stat().st_size for path in inputs[:2]), size, 50)
    assert told[-1] == (size, size, 60)
    assert told == sorted(told)


def test_the_cut_changes_shards_and_nothing_else(tmp_path: Path) -> None:
    inputs = _inputs(tmp_path)
    for name, unit_bytes in (("whole", None), ("cut", 700)):
        tokenise(inputs, tmp_path / name, settings(tmp_path), quiet, unit_bytes=unit_bytes)
    whole, cut = Corpus(tmp_path / "whole"), Corpus(tmp_path / "cut")
    assert len(cut.info["shards"]) > 6
    for number in range(60):
        one, other = whole.sample(number), cut.sample(number)
        assert one.id == other.id and one.tokens.tobytes() == other.tokens.tobytes()
        images = zip(one.images, other.images, strict=True)
        assert all(whole.image(*first) == cut.image(*second) for first, second in images)


def test_long_inputs_are_written_in_order(tmp_path: Path) -> None:
    records = [record(number, "text", words=1 + number % 3) for number in range(1300)]
    tokenise([write_jsonl(tmp_path / "a.jsonl", records)], tmp_path / "out", settings(tmp_path), quiet)
    corpus = Corpus(tmp_path / "out")
    assert [corpus.sample(n).id for n in range(1300)] == [values["id"] for values in records]
    assert all(len(corpus.sample(n).tokens) > n % 3 for n in range(1300))
    assert corpus.sample(0).tokens.dtype == np.int32
