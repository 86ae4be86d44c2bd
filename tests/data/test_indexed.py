"""Our IndexedDataset files are megatron-core's: each side reads what the other wrote, and torn files are named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from megatron_nmm.data import indexed
from megatron_nmm.data.corpus import Corpus
from megatron_nmm.data.indexed import IndexedReader, IndexedWriter
from megatron_nmm.data.tokenise import tokenise
from megatron_nmm.errors import DataError
from tests.data.corpora import mixed_records, quiet, settings, write_images, write_jsonl

LENGTHS = (3, 0, 1, 7, 250)


def _sequences(dtype: type, lengths: tuple[int, ...] = LENGTHS) -> list[Any]:
    random = np.random.RandomState(0)
    return [random.randint(0, 200, size=length).astype(dtype) for length in lengths]


def _write(prefix: Path, dtype: type, sequences: list[Any]) -> None:
    writer = IndexedWriter(prefix, dtype)
    assert [writer.append(sequence) for sequence in sequences] == list(range(len(sequences)))
    writer.close()


@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
@pytest.mark.parametrize("mmap", [True, False])
def test_megatron_core_reads_ours(tmp_path: Path, dtype: type, mmap: bool) -> None:
    sequences = _sequences(dtype)
    _write(tmp_path / "data", dtype, sequences)
    theirs = IndexedDataset(str(tmp_path / "data"), mmap=mmap)
    assert len(theirs) == len(sequences)
    for number, sequence in enumerate(sequences):
        np.testing.assert_array_equal(theirs[number], sequence)
        assert theirs[number].dtype == dtype
    np.testing.assert_array_equal(theirs.document_indices, np.arange(len(sequences) + 1))


def test_megatron_core_reads_a_corpus(tmp_path: Path) -> None:
    write_images(tmp_path)
    records = write_jsonl(tmp_path / "a.jsonl", mixed_records(9))
    tokenise([records], tmp_path / "out", settings(tmp_path), quiet)
    corpus = Corpus(tmp_path / "out")
    shard = tmp_path / "out" / "shards" / "00000"
    tokens, images = (IndexedDataset(str(shard / name)) for name in ("tokens", "images"))
    assert len(tokens) == len(corpus) == 9
    for number in range(9):
        sample = corpus.sample(number)
        np.testing.assert_array_equal(tokens[number], sample.tokens)
        assert [images[place].tobytes() for _, place in sample.images] == [corpus.image(*at) for at in sample.images]


def test_megatron_core_reads_ours_when_empty(tmp_path: Path) -> None:
    _write(tmp_path / "data", np.uint8, [])
    assert len(IndexedDataset(str(tmp_path / "data"))) == 0
    assert len(IndexedReader(tmp_path / "data")) == 0


@pytest.mark.parametrize("multimodal", [False, True])
def test_we_read_megatron_cores(tmp_path: Path, multimodal: bool) -> None:
    sequences = _sequences(np.int32)
    builder = IndexedDatasetBuilder(str(tmp_path / "data.bin"), dtype=np.int32, multimodal=multimodal)
    for sequence in sequences:
        builder.add_item(torch.from_numpy(sequence))
        builder.end_document()
    builder.finalize(str(tmp_path / "data.idx"))
    ours = IndexedReader(tmp_path / "data")
    assert ours.dtype == np.int32
    for number, sequence in enumerate(sequences):
        np.testing.assert_array_equal(ours[number], sequence)


def test_files_equal_megatron_cores_byte_for_byte(tmp_path: Path) -> None:
    sequences = _sequences(np.int32)
    _write(tmp_path / "ours", np.int32, sequences)
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.int32)
    for sequence in sequences:
        builder.add_item(torch.from_numpy(sequence))
        builder.end_document()
    builder.finalize(str(tmp_path / "theirs.idx"))
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"ours.{suffix}").read_bytes() == (tmp_path / f"theirs.{suffix}").read_bytes()


def test_index_is_the_same_whatever_fits_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "whole", np.int32, _sequences(np.int32))
    monkeypatch.setattr(indexed, "CHUNK", 2)
    _write(tmp_path / "chunks", np.int32, _sequences(np.int32))
    assert (tmp_path / "whole.idx").read_bytes() == (tmp_path / "chunks.idx").read_bytes()
    assert not list(tmp_path.glob("*.lengths"))


def _cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def _overwrite(path: Path, count: int) -> None:
    path.write_bytes(b"x" * count + path.read_bytes()[count:])


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        ("idx", lambda path: _cut(path, 4), r"data\.idx has \d+ bytes where 5 sequences need \d+; the file is torn"),
        ("idx", lambda path: path.write_bytes(b"MMIDIDX"), r"data\.idx has 7 bytes, too short for an index"),
        ("idx", lambda path: _overwrite(path, 2), r"data\.idx is not an IndexedDataset index of version 1"),
        ("idx", Path.unlink, r"data\.idx is missing"),
        ("bin", lambda path: _cut(path, 1), r"data\.bin has \d+ bytes but data\.idx describes 1044; the pair is torn"),
        ("bin", lambda path: path.write_bytes(b""), r"data\.bin has 0 bytes but data\.idx describes 1044"),
        ("bin", Path.unlink, r"data\.bin is missing"),
    ],
)
def test_torn_files_are_named(tmp_path: Path, suffix: str, damage: Callable[[Path], object], message: str) -> None:
    _write(tmp_path / "data", np.int32, _sequences(np.int32))
    damage(tmp_path / f"data.{suffix}")
    with pytest.raises(DataError, match=message) as raised:
        IndexedReader(tmp_path / "data")
    assert "tools/tokenise.py" in str(raised.value)
