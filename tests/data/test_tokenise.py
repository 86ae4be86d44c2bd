"""A corpus holds every usable record once, says why the others are missing, and continues where it was stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_nmm.data.corpus import Corpus
from megatron_nmm.data.indexed import IndexedReader
from megatron_nmm.data.rule import ImageRule
from megatron_nmm.data.tables import read_table
from megatron_nmm.data.tokenise import tokenise
from megatron_nmm.errors import DataError
from megatron_nmm.files.lock import FolderInUse
from tests.data.corpora import mixed_records, png, quiet, record, settings, write_images, write_jsonl


def _inputs(folder: Path, counts: tuple[int, ...] = (30, 20, 10)) -> list[Path]:
    """Input files with mixed records of different ids, and their images."""
    write_images(folder)
    paths = []
    for number, count in enumerate(counts):
        records = [values | {"id": f"{number}-{values['id']}"} for values in mixed_records(count)]
        paths.append(write_jsonl(folder / f"part-{number}.jsonl", records))
    return paths


def _content(corpus: Path) -> dict[str, bytes]:
    """Every file of a corpus but the lock."""
    return {
        str(path.relative_to(corpus)): path.read_bytes()
        for path in sorted(corpus.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


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
    assert info["image_rule"] == {"image_size": 8, "patch": 4, "name": "square"}


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
    (record(0, "caption", ["."]), "cannot be read: Is a directory"),
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
    assert _content(tmp_path / "one") == _content(tmp_path / "two")


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.data.corpora import settings
from megatron_nmm.data.tokenise import tokenise
folder = Path(sys.argv[1])
def progress(path, done, samples):
    if path.name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
inputs = [folder / f"part-{n}.jsonl" for n in range(3)]
tokenise(inputs, folder / "out", settings(folder), progress)
"""


@pytest.mark.parametrize("at", ["part-0.jsonl", "part-2.jsonl"])
def test_a_killed_run_continues_without_redoing_finished_shards(tmp_path: Path, at: str) -> None:
    inputs = _inputs(tmp_path)
    tokenise(inputs, tmp_path / "whole", settings(tmp_path), quiet)
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), at], cwd=root, env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "shards").glob("0000?/*")}
    assert len({path.parent for path in finished}) == int(at[5])
    with pytest.raises(
        DataError, match=r"is unfinished: it has no corpus\.json; run the same tools/tokenise\.py again"
    ):
        Corpus(tmp_path / "out")
    tokenise(inputs, tmp_path / "out", settings(tmp_path), quiet)
    assert _content(tmp_path / "out") == _content(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_inputs_can_be_appended(tmp_path: Path) -> None:
    inputs = _inputs(tmp_path)
    first = tokenise(inputs[:2], tmp_path / "out", settings(tmp_path), quiet)
    both = tokenise(inputs, tmp_path / "out", settings(tmp_path), quiet)
    tokenise(inputs, tmp_path / "whole", settings(tmp_path), quiet)
    assert first["fingerprint"] != both["fingerprint"]
    assert _content(tmp_path / "out") == _content(tmp_path / "whole")


def test_an_output_never_mixes_settings(tmp_path: Path) -> None:
    inputs = _inputs(tmp_path)
    tokenise(inputs[:2], tmp_path / "out", settings(tmp_path), quiet)
    before = _content(tmp_path / "out")
    changed = write_jsonl(tmp_path / "changed.jsonl", mixed_records(3))
    refusals: list[tuple[list[Path], Any, str]] = [
        (inputs, settings(tmp_path, seed=1), "was tokenised with another tokenizer"),
        (inputs, settings(tmp_path, rule=ImageRule(16, 4)), "use the same --image-size and --patch or a new --output"),
        (inputs, settings(tmp_path, name="other"), "is a corpus of source 'corpus', not 'other'; use --source corpus"),
        ([changed, *inputs[1:]], settings(tmp_path), r"was made from part-0.jsonl .* differs from .*changed.jsonl"),
        (inputs[:1], settings(tmp_path), "has 2 finished shards but 1 inputs were given"),
        ([tmp_path / "none.jsonl"], settings(tmp_path), "none.jsonl does not exist; give paths of JSONL files"),
    ]
    for paths, given, message in refusals:
        with pytest.raises(DataError, match=message):
            tokenise(paths, tmp_path / "out", given, quiet)
        assert _content(tmp_path / "out") == before


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    inputs = _inputs(tmp_path)

    def second(path: Path, done: int, samples: int) -> None:
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
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    tokenise([folder / "part-0.jsonl", folder / "large.jsonl"], folder / "out", settings(folder), quiet)
except DataError as error:
    print(error)
"""


def test_a_disk_that_refuses_keeps_finished_shards(tmp_path: Path) -> None:
    # A limit on the size of files stands for a full disk: the write itself fails, in the middle of the second shard.
    (part,) = _inputs(tmp_path, (30,))
    (tmp_path / "large.png").write_bytes(png(0, side=150))
    large = write_jsonl(tmp_path / "large.jsonl", [record(n, "caption", ["large.png"]) for n in range(30)])
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "out failed: File too large; finished shards are kept: make room or fix the permissions" in done.stdout
    assert [path.name for path in (tmp_path / "out" / "shards").iterdir()] == ["00000"]
    tokenise([part, large], tmp_path / "out", settings(tmp_path), quiet)
    assert len(Corpus(tmp_path / "out")) == 60


def test_a_file_of_rejections_alone_is_a_shard(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("nothing\n" * 3)
    info = tokenise([tmp_path / "bad.jsonl"], tmp_path / "out", settings(tmp_path), quiet)
    assert (info["counts"]["samples"], info["counts"]["rejected"]) == (0, 3)
    assert len(Corpus(tmp_path / "out")) == 0


def test_an_interrupted_shard_leaves_nothing_half_written(tmp_path: Path) -> None:
    def stop(path: Path, done: int, samples: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenise(_inputs(tmp_path), tmp_path / "out", settings(tmp_path), stop)
    assert not list((tmp_path / "out" / "shards").iterdir())


def test_long_inputs_are_written_in_order(tmp_path: Path) -> None:
    records = [record(number, "text", words=1 + number % 3) for number in range(1300)]
    tokenise([write_jsonl(tmp_path / "a.jsonl", records)], tmp_path / "out", settings(tmp_path), quiet)
    corpus = Corpus(tmp_path / "out")
    assert [corpus.sample(n).id for n in range(1300)] == [values["id"] for values in records]
    assert all(len(corpus.sample(n).tokens) > n % 3 for n in range(1300))
    assert corpus.sample(0).tokens.dtype == np.int32
