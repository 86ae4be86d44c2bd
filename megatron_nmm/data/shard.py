"""Writes one shard of a corpus: one unit of input becomes tokens, images, a sample table and a table of rejections.

The folder is filled under a temporary name and renamed when everything is on disk: a shard exists whole or not at all.
What it holds depends on the unit and the settings alone.
"""

import hashlib
import os
import shutil
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_nmm.data.compose import compose
from megatron_nmm.data.image_root import ImageRoot, open_root
from megatron_nmm.data.indexed import IndexedWriter
from megatron_nmm.data.json_file import read_json, write_json
from megatron_nmm.data.raw.record import RawImage, Record, Rejection
from megatron_nmm.data.raw.units import Unit, read_unit, unit_identity
from megatron_nmm.data.settings import PARTIAL, SHARD_VERSION, Settings
from megatron_nmm.data.tables import REJECTED, SAMPLES, TableWriter
from megatron_nmm.errors import DataError
from megatron_nmm.files.durable import sync_files, sync_folder

BATCH = 512
"""Most records encoded in one call of the tokenizer."""
BATCH_BYTES = 1 << 19
"""Text and image bytes after which a batch is full: memory is bounded whatever the records hold, and a change of the
number of threads takes effect within a tenth of a second."""
REMEMBERED_IMAGES = 1 << 15
"""Paths whose image is known to stand in images.bin already, so a repeated image is stored once."""

NO_IMAGES: tuple[tuple[int, ...], ...] = ((),) * 5
"""The image columns of a sample without any."""

Pulse = Callable[[int, int], int]
"""Told (bytes of the unit done, samples written) after every batch; answers how many threads encode the next one."""


class _Stored(NamedTuple):
    """An image that stands in images.bin."""

    number: int
    height: int
    width: int


class _Image(NamedTuple):
    """An image of a record: where it stands in images.bin (-1: not there yet), its size, its bytes if it is new."""

    name: str
    number: int
    height: int
    width: int
    encoded: bytes
    repeats: bool
    """Whether other records may name the same image."""


def write_shard(unit: Unit, folder: Path, settings: Settings, pulse: Pulse) -> dict[str, Any]:
    """Turn ``unit`` into the shard ``folder`` and return its manifest.

    Raises DataError when the input cannot be read or changes meanwhile, OSError when the disk refuses; ``folder`` does
    not exist then.
    """
    # A name of its own: another process may still be ending that was killed while it wrote the same shard.
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    partial.mkdir(parents=True)
    try:
        identity = unit_identity(unit)
        counts, digest = _fill(partial, unit, settings, pulse)
        if unit_identity(unit) != identity:
            raise DataError(f"{unit.input} was changed while it was read; run the same command again")
        manifest = _manifest(partial, identity, settings, counts) | {"records_sha256": digest}
        sync_files(partial)
        write_json(partial / "shard.json", manifest)
        if not _publish(partial, folder):
            return read_json(folder / "shard.json", f"remove {folder} and run again")
    except BaseException:
        # A half-written shard is worth nothing and may be what fills the disk.
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def _fill(partial: Path, unit: Unit, settings: Settings, pulse: Pulse) -> tuple[Counter[str], str]:
    """Write every file of a shard but its manifest; what was counted, and one hash over the raw records in order."""
    shard = _Shard(partial, settings, open_root(_image_place(unit, settings)))
    try:
        threads = pulse(0, 0)
        for done, records in _batches(read_unit(unit, settings.schema)):
            shard.add(records, threads)
            threads = pulse(done, shard.samples.count)
    finally:
        shard.close()
    return shard.counts, shard.digest.hexdigest()


def _publish(partial: Path, folder: Path) -> bool:
    """Give a finished shard its name; False when it exists by now, from a process thought dead: same bytes."""
    try:
        os.rename(partial, folder)
    except OSError:
        if not (folder / "shard.json").is_file():
            raise
        shutil.rmtree(partial)
        return False
    sync_folder(folder.parent)
    return True


def _image_place(unit: Unit, settings: Settings) -> str:
    return str(settings.image_root) if settings.image_root is not None else os.path.dirname(unit.input) or "."


def _batches(
    records: Iterable[tuple[int, Record | Rejection]],
) -> Iterator[tuple[int, list[Record | Rejection]]]:
    """Records by the batch, with the bytes of the unit done by then."""
    batch: list[Record | Rejection] = []
    done = held = 0
    for done, record in records:
        batch.append(record)
        if isinstance(record, Record):
            held += sum(map(len, record.segments)) + sum(len(image.data or b"") for image in record.images)
        if len(batch) >= BATCH or held >= BATCH_BYTES:
            yield done, batch
            batch, held = [], 0
    if batch:
        yield done, batch


def _manifest(folder: Path, identity: dict[str, Any], settings: Settings, counts: Counter[str]) -> dict[str, Any]:
    return {
        "version": SHARD_VERSION,
        "input": identity,
        **settings.identity(),
        "counts": dict(sorted(counts.items())),
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }


class _Shard:
    """The open files of one shard."""

    def __init__(self, folder: Path, settings: Settings, root: ImageRoot) -> None:
        self.settings = settings
        self.root = root
        self.counts: Counter[str] = Counter({"samples": 0, "rejected": 0, "tokens": 0, "images": 0})
        self.tokens = IndexedWriter(folder / "tokens", np.int32)
        self.images = IndexedWriter(folder / "images", np.uint8)
        self.samples = TableWriter(folder / "samples.parquet", SAMPLES)
        self.rejected = TableWriter(folder / "rejected.parquet", REJECTED)
        self.digest = hashlib.sha256()
        self._stored: OrderedDict[str, _Stored] = OrderedDict()

    def add(self, records: list[Record | Rejection], threads: int) -> None:
        """Write these records in order."""
        texts = [text for record in records if isinstance(record, Record) for text in record.segments]
        encoded = self.settings.tokenizer.encode_many(texts, threads)
        start = 0
        for record in records:
            if isinstance(record, Rejection):
                self._reject(record)
                continue
            ids, start = encoded[start : start + len(record.segments)], start + len(record.segments)
            try:
                self._write(record, ids, [self._load(image) for image in record.images])
            except DataError as error:
                self._reject(Rejection(record.id, record.where, str(error)))

    def close(self) -> None:
        """Finish all files."""
        for file in (self.tokens, self.images, self.samples, self.rejected):
            file.close()

    def _write(self, record: Record, ids: list[npt.NDArray[np.int32]], images: list[_Image]) -> None:
        """Write one sample; raises DataError, with nothing written, when a model could learn nothing from it."""
        rule, tokenizer = self.settings.rule, self.settings.tokenizer
        views = [rule.views(image.height, image.width) for image in images]
        sequence = compose(ids, [rule.image_ids(own, tokenizer.special) for own in views], tokenizer, end=True)
        text = sum(map(len, ids))
        # Text and the end are labels, images and their layout are not; nor is the first token, which follows nothing.
        supervised = text + 1 - int(len(ids[0]) > 0 or not images)
        if supervised < 1 or not text:
            raise DataError("no supervised token: nothing is left of the text once it is tokenised")
        placeholders = int(np.count_nonzero(sequence == tokenizer.image)) if images else 0
        numbers = [self._store(image) for image in images]
        entries = [
            (number, image.height, image.width, view.grid.rows, view.grid.columns)
            for number, image, own in zip(numbers, images, views, strict=True)
            for view in own
        ]
        self.tokens.append(sequence)
        self.samples.append(
            record.id,
            self.settings.source,
            record.kind,
            len(sequence),
            supervised,
            sum(rule.patches(own) for own in views),
            *(zip(*entries, strict=True) if entries else NO_IMAGES),
            record.sha256,
        )
        self.digest.update(record.sha256)
        self.counts["samples"] += 1
        self.counts[record.kind] += 1
        self.counts["tokens"] += len(sequence)
        self.counts["supervised_tokens"] += supervised
        self.counts["image_tokens"] += placeholders

    def _reject(self, rejection: Rejection) -> None:
        self.rejected.append(rejection.id, self.settings.source, rejection.where, rejection.reason)
        self.counts["rejected"] += 1

    def _load(self, raw: RawImage) -> _Image:
        """One image of a record, looked at; raises DataError when it cannot be used."""
        # Pillow is not needed for text, and a text corpus should not wait for it.
        from megatron_nmm.data.decoders.header import MAX_BYTES, read_size
        from megatron_nmm.data.decoders.pillow import verify

        if raw.data is None and raw.name in self._stored:
            return _Image(raw.name, *self._stored[raw.name], b"", True)
        encoded = self.root.read(raw.name, MAX_BYTES) if raw.data is None else raw.data
        try:
            size = read_size(encoded)
            if self.settings.verify == "decode":
                verify(encoded)
        except DataError as error:
            raise DataError(f"image {raw.name!r}: {error}") from error
        return _Image(raw.name, -1, size.height, size.width, encoded, raw.data is None)

    def _store(self, image: _Image) -> int:
        """The image's number in images.bin, where it is written unless it stands there already."""
        if image.repeats and image.name in self._stored:
            self._stored.move_to_end(image.name)
            return self._stored[image.name].number
        number = self.images.append(image.encoded)
        self.counts["images"] += 1
        if image.repeats:
            self._stored[image.name] = _Stored(number, image.height, image.width)
            if len(self._stored) > REMEMBERED_IMAGES:
                self._stored.popitem(last=False)
        return number
