"""Writes one shard of a corpus: one input file becomes tokens, images, a sample table and a table of rejections.

The folder is filled under a temporary name and renamed when everything is on disk: a shard exists whole or not at all.
"""

import hashlib
import os
import shutil
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from megatron_nmm.data.compose import compose, segments
from megatron_nmm.data.images import MAX_BYTES, Size, read_size
from megatron_nmm.data.indexed import IndexedWriter
from megatron_nmm.data.json_file import write_json
from megatron_nmm.data.records import Record, Rejection, read_jsonl
from megatron_nmm.data.rule import ImageRule
from megatron_nmm.data.tables import REJECTED, SAMPLES, TableWriter
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import DataError
from megatron_nmm.files.durable import sync_files, sync_folder

SHARD_VERSION = 1
BATCH = 512
"""Records encoded in one call of the tokenizer."""
REMEMBERED_IMAGES = 1 << 16
"""Paths whose image is known to stand in images.bin already, so a repeated image is stored once."""

Progress = Callable[[int, int], None]
"""Told (bytes of the input read, samples written) now and then."""


@dataclass(frozen=True)
class Settings:
    """What must be the same for all shards of a corpus."""

    source: str
    tokenizer: Tokenizer
    rule: ImageRule
    image_root: Path

    def identity(self) -> dict[str, Any]:
        """The settings as they stand in every shard's manifest."""
        return {"source": self.source, "tokenizer_sha256": self.tokenizer.sha256, "image_rule": self.rule.to_json()}


@dataclass(frozen=True)
class _Image:
    """An image of a record: where it stands in images.bin, or its bytes if it is not there yet."""

    path: str
    size: Size
    number: int | None
    encoded: bytes


def write_shard(source_file: Path, folder: Path, settings: Settings, progress: Progress) -> dict[str, Any]:
    """Turn ``source_file`` into the shard ``folder`` and return its manifest."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shard = _Shard(partial, settings)
    try:
        records = read_jsonl(source_file)
        while batch := list(islice(records, BATCH)):
            shard.add([record for _, record in batch])
            progress(batch[-1][0], shard.samples.count)
        shard.close()
    except BaseException:
        # A half-written shard is worth nothing and may be what fills the disk.
        shutil.rmtree(partial, ignore_errors=True)
        raise
    manifest = _manifest(partial, source_file, settings, shard.counts)
    sync_files(partial)
    write_json(partial / "shard.json", manifest)
    os.rename(partial, folder)
    sync_folder(folder.parent)
    return manifest


def input_identity(path: Path) -> dict[str, Any]:
    """Size and hash of an input file: what a finished shard is recognised by."""
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _manifest(folder: Path, source_file: Path, settings: Settings, counts: Counter[str]) -> dict[str, Any]:
    return {
        "version": SHARD_VERSION,
        "input": {"name": source_file.name, **input_identity(source_file)},
        **settings.identity(),
        "counts": dict(sorted(counts.items())),
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }


class _Shard:
    """The open files of one shard."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter({"samples": 0, "rejected": 0, "tokens": 0, "images": 0})
        self.tokens = IndexedWriter(folder / "tokens", np.int32)
        self.images = IndexedWriter(folder / "images", np.uint8)
        self.samples = TableWriter(folder / "samples.parquet", SAMPLES)
        self.rejected = TableWriter(folder / "rejected.parquet", REJECTED)
        self._stored: OrderedDict[str, tuple[int, Size]] = OrderedDict()

    def add(self, records: list[Record | Rejection]) -> None:
        """Write these records in order."""
        texts = [segments(record.text) if isinstance(record, Record) else [] for record in records]
        encoded: Iterator[list[int]] = iter(self.settings.tokenizer.encode_many([s for text in texts for s in text]))
        for record, text in zip(records, texts, strict=True):
            ids = list(islice(encoded, len(text)))
            if isinstance(record, Rejection):
                self._reject(record)
                continue
            try:
                images = [self._load(path) for path in record.images]
            except DataError as error:
                self._reject(Rejection(record.id, record.where, str(error)))
                continue
            self._write(record, ids, images)

    def close(self) -> None:
        """Finish all files."""
        for file in (self.tokens, self.images, self.samples, self.rejected):
            file.close()

    def _write(self, record: Record, ids: list[list[int]], images: list[_Image]) -> None:
        rule, tokenizer = self.settings.rule, self.settings.tokenizer
        grids = [rule.grid(image.size.height, image.size.width) for image in images]
        sequence = compose(ids, [rule.tokens(grid) for grid in grids], tokenizer, end=True)
        supervised = int(np.count_nonzero(sequence[1:] != tokenizer.image))
        self.tokens.append(sequence)
        self.samples.append(
            {
                "id": record.id,
                "source": self.settings.source,
                "kind": record.kind,
                "tokens": len(sequence),
                "supervised_tokens": supervised,
                "patches": sum(grid.patches for grid in grids),
                "images": [self._store(image) for image in images],
                "heights": [image.size.height for image in images],
                "widths": [image.size.width for image in images],
                "grid_rows": [grid.rows for grid in grids],
                "grid_columns": [grid.columns for grid in grids],
                "sha256": record.sha256,
            }
        )
        self.counts["samples"] += 1
        self.counts[record.kind] += 1
        self.counts["tokens"] += len(sequence)
        self.counts["supervised_tokens"] += supervised
        self.counts["image_tokens"] += int(np.count_nonzero(sequence == tokenizer.image))

    def _reject(self, rejection: Rejection) -> None:
        row = {"id": rejection.id, "where": rejection.where, "reason": rejection.reason}
        self.rejected.append({"source": self.settings.source, **row})
        self.counts["rejected"] += 1

    def _load(self, path: str) -> _Image:
        """The image at ``path`` under the image folder; raises DataError when it cannot be used."""
        if path in self._stored:
            number, size = self._stored[path]
            return _Image(path, size, number, b"")
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise DataError(f"image path {path!r} leaves the image folder; use a path relative to it")
        full = self.settings.image_root / path
        try:
            if full.stat().st_size > MAX_BYTES:
                raise DataError(f"image {path!r} has more than {MAX_BYTES} bytes; shrink it")
            encoded = full.read_bytes()
        except (OSError, ValueError) as error:
            raise DataError(f"image {path!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        try:
            return _Image(path, read_size(encoded), None, encoded)
        except DataError as error:
            raise DataError(f"image {path!r}: {error}") from error

    def _store(self, image: _Image) -> int:
        """The image's number in images.bin, where it is written unless it stands there already."""
        if image.number is not None:
            self._stored.move_to_end(image.path)
            return image.number
        if image.path in self._stored:
            return self._stored[image.path][0]
        number = self.images.append(image.encoded)
        self.counts["images"] += 1
        self._stored[image.path] = (number, image.size)
        if len(self._stored) > REMEMBERED_IMAGES:
            self._stored.popitem(last=False)
        return number
