"""A corpus that is missing, torn or made for something else is refused with what to do about it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron_nmm.data.corpus import Corpus
from megatron_nmm.data.rule import SquareRule
from megatron_nmm.data.tokenise import tokenise
from megatron_nmm.errors import DataError
from tests.data.corpora import (
    RULE,
    corpus,
    mixed_records,
    quiet,
    record,
    settings,
    tokenizer,
    write_images,
    write_jsonl,
)


def test_samples_and_images_are_found_across_shards(tmp_path: Path) -> None:
    write_images(tmp_path)
    names = ["image-3.png", "image-1.png"]
    first = write_jsonl(tmp_path / "a.jsonl", [record(0, "text"), record(1, "caption", names[:1])])
    second = write_jsonl(tmp_path / "b.jsonl", [record(2, "interleaved", names)])
    tokenise([first, second], tmp_path / "out", settings(tmp_path), quiet)
    opened = Corpus(tmp_path / "out")
    samples = [opened.sample(number) for number in range(len(opened))]
    assert [sample.id for sample in samples] == ["text-0", "caption-1", "interleaved-2"]
    assert [sample.kind for sample in samples] == [0, 1, 2]
    assert [len(sample.grids) for sample in samples] == [0, 1, 2]
    assert [opened.image(*place) for place in samples[2].images] == [(tmp_path / name).read_bytes() for name in names]
    assert samples[1].images == ((0, 0),) and samples[2].images == ((1, 0), (1, 1))


def test_megatron_core_opens_both_files(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "c", mixed_records(12))
    ours = Corpus(folder)
    tokens = IndexedDataset(str(folder / "shards" / "00000" / "tokens"))
    images = IndexedDataset(str(folder / "shards" / "00000" / "images"))
    assert len(tokens) == len(ours) == 12
    for number in range(12):
        sample = ours.sample(number)
        assert tokens[number].tolist() == sample.tokens.tolist()
        assert all(images[image].tobytes() == ours.image(shard, image) for shard, image in sample.images)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, r"corpus .*c does not exist; make it with tools/tokenise\.py --output"),
        (lambda c: (c / "corpus.json").unlink(), r"is unfinished: it has no corpus\.json"),
        (lambda c: _cut(c / "corpus.json"), r"corpus\.json is damaged"),
        (lambda c: _edit(c / "corpus.json", version=9), r"version 9, not 'megatron_nmm corpus' version 1; make"),
        (lambda c: _edit(c / "corpus.json", format="x"), r"corpus\.json is 'x' version 1, not"),
        (
            lambda c: _cut(c / "shards/00000/tokens.bin"),
            r"tokens\.bin has \d+ bytes where \d+ were written; the file is",
        ),
        (lambda c: _cut(c / "shards/00000/tokens.idx"), r"tokens\.idx has \d+ bytes where \d+ were written"),
        (lambda c: _cut(c / "shards/00000/images.bin"), r"images\.bin has \d+ bytes where \d+ were written"),
        (lambda c: _cut(c / "shards/00000/samples.parquet"), r"samples\.parquet has \d+ bytes where"),
        (
            lambda c: (c / "shards/00000/images.idx").unlink(),
            r"images\.idx is missing; remove .*00000 and run the same",
        ),
    ],
)
def test_a_damaged_corpus_is_refused(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    folder = corpus(tmp_path, "c", mixed_records(9))
    damage(folder)
    with pytest.raises(DataError, match=message):
        Corpus(folder)


def test_bin_and_idx_of_different_shards_do_not_match(tmp_path: Path) -> None:
    folder, other = (corpus(tmp_path, name, mixed_records(count)) for name, count in (("c", 9), ("d", 12)))
    name = "shards/00000/tokens.bin"
    shutil.copy(other / name, folder / name)
    info = json.loads((folder / "corpus.json").read_text())
    info["shards"][0]["files"]["tokens.bin"] = (folder / name).stat().st_size
    (folder / "corpus.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"tokens\.bin has \d+ bytes but tokens\.idx describes \d+; the pair is torn"):
        Corpus(folder)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    opened = Corpus(corpus(tmp_path, "c", mixed_records(9)))
    opened.require(tokenizer(tmp_path), RULE)
    with pytest.raises(
        DataError, match=r"was tokenised with tokenizer-0\.model .* set data\.tokenizer to that file or"
    ):
        opened.require(tokenizer(tmp_path, seed=1), RULE)


def test_another_image_rule_is_refused_unless_there_are_no_images(tmp_path: Path) -> None:
    rule = SquareRule(16, 4)
    mixed = Corpus(corpus(tmp_path, "c", mixed_records(9)))
    with pytest.raises(
        DataError,
        match=r"tokenised for data\.image_size=8 and model\.vision\.patch=4 but the run has data\.image_size=16",
    ):
        mixed.require(tokenizer(tmp_path), rule)
    Corpus(corpus(tmp_path, "text", [record(1, "text")])).require(tokenizer(tmp_path), rule)
