"""The pack plan of a corpus: which samples share a packed row, worked out once and written beside the corpus.

``<corpus>/plan-<sequence_length>/{plan.parquet,rejected.parquet,report.json,histogram.png}``; the folder appears whole
or not at all. Plans for several sequence lengths stand side by side.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_nmm.config import SourceConfig
from megatron_nmm.config.schema import ShareOf
from megatron_nmm.data.json_file import read_json, write_json
from megatron_nmm.data.packing import Bins, Limits, pack
from megatron_nmm.data.permutation import Permutation
from megatron_nmm.data.plan_input import PackInput, Tell, read_input, reasons, usable
from megatron_nmm.data.plan_report import Packed, figures, measure
from megatron_nmm.data.tables import PLAN, PLAN_REJECTED, TableWriter, read_table
from megatron_nmm.errors import DataError
from megatron_nmm.files.durable import sync_files, sync_folder

PLAN_VERSION = 1
REPORT = "report.json"
PICTURE = "histogram.png"

Draw = Callable[[Path, Packed, str], None]
"""Writes a picture of packs under a title."""


@dataclass(frozen=True)
class PackSettings:
    """What decides a plan, besides the corpus."""

    sequence_length: int
    vision_patches: int | None = None
    """Most encoder patches in a pack; None = no limit."""
    seed: int = 0
    """Chooses which samples of equal size share a pack, and the order of packs."""

    @property
    def limits(self) -> Limits:
        """Of one pack."""
        return Limits(self.sequence_length, self.vision_patches)


def plan_folder(corpus: Path, sequence_length: int) -> Path:
    """Where a run looks for the plan of this packed length unless it names another."""
    return Path(SourceConfig(str(corpus)).plan_path(sequence_length))


def write_plan(corpus: Path, folder: Path, settings: PackSettings) -> dict[str, Any]:
    """``write_plans`` of one plan, without a picture; returns its report."""
    return write_plans(corpus, {folder: settings})[folder]


def write_plans(
    corpus: Path, plans: Mapping[Path, PackSettings], tell: Tell | None = None, draw: Draw | None = None
) -> dict[Path, dict[str, Any]]:
    """Pack ``corpus`` into each folder, replacing an older plan there, and return the reports; ``draw`` adds a picture.

    Raises DataError when the corpus cannot be read, no sample fits, a folder is something else than a plan, or the
    disk refuses; an older plan in that folder is intact then, and the plans before it are written.
    """
    tell = tell or _silent
    for folder in plans:
        if folder.exists() and not (folder / REPORT).is_file():
            raise DataError(f"{folder} exists and is no pack plan; give another place, or remove it")
    given = read_input(corpus, tell)
    return {folder: _write_one(given, folder, settings, tell, draw) for folder, settings in plans.items()}


def _write_one(given: PackInput, folder: Path, settings: PackSettings, tell: Tell, draw: Draw | None) -> dict[str, Any]:
    mask = usable(given, settings.limits)
    fits, rejected = np.flatnonzero(mask), np.flatnonzero(~mask)
    if not len(fits):
        reason = next(reasons(given, settings.limits, rejected), "")
        reason = reason or "the corpus holds no samples; look into its rejected.parquet"
        raise DataError(f"no sample of {given.corpus} can be packed: {reason}")
    what = f"packing {settings.sequence_length}"
    bins = _shuffled_bins(fits, given, settings, lambda done: tell(what, done, len(fits)))
    packed = measure(bins, given.tokens, given.patches, settings.limits)
    counts = {"samples": len(given.tokens), "packed": len(fits), "rejected": len(rejected)}
    identity = {"version": PLAN_VERSION, "corpus": given.info["fingerprint"], **asdict(settings)}
    report = {**identity, **counts, **figures(packed)}
    try:
        partial = _empty_folder(folder.with_name(folder.name + ".partial"))
        try:
            _write_tables(partial, packed, given, rejected)
            write_json(partial / REPORT, report)
            if draw is not None:
                draw(partial / PICTURE, packed, str(given.info["source"]))
            sync_files(partial)
            _take_place(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise DataError(f"writing {folder} failed: {error.strerror or error}; make room or fix permissions") from error
    return report


class Plan:
    """An opened pack plan."""

    def __init__(self, folder: Path, fingerprint: str, sequence_length: int) -> None:
        """Open ``folder``; raises DataError unless it was made from this corpus state for this packed length."""
        remedy = f"make it with tools/pack.py --sequence-length {sequence_length}"
        self.report = read_json(folder / REPORT, remedy)
        if self.report.get("version") != PLAN_VERSION:
            raise DataError(
                f"pack plan {folder} has version {self.report.get('version')}, not {PLAN_VERSION}; {remedy}"
            )
        if self.report["corpus"] != fingerprint:
            raise DataError(f"pack plan {folder} was made for another state of its corpus; {remedy}")
        if self.report["sequence_length"] != sequence_length:
            raise DataError(
                f"pack plan {folder} has packs of {self.report['sequence_length']} tokens but data.sequence_length is "
                f"{sequence_length}; set data.sequence_length={self.report['sequence_length']} or {remedy}"
            )
        self._table = folder / "plan.parquet"
        table = read_table(self._table, ["samples"]).combine_chunks()
        lists = table.column("samples").chunk(0)
        self._samples: npt.NDArray[np.int64] = lists.values.to_numpy()
        self._starts: npt.NDArray[np.int32] = lists.offsets.to_numpy()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def samples(self, pack_number: int) -> list[int]:
        """Sample numbers of one pack, in order."""
        numbers: list[int] = self._samples[self._starts[pack_number] : self._starts[pack_number + 1]].tolist()
        return numbers

    def counts(self, share_of: ShareOf) -> npt.NDArray[np.int64]:
        """[packs] tokens or samples of each pack; ones for packs. DataError when the table was damaged meanwhile."""
        if share_of == "packs":
            return np.ones(len(self), np.int64)
        return self._tokens if share_of == "tokens" else np.diff(self._starts).astype(np.int64)

    @cached_property
    def _tokens(self) -> npt.NDArray[np.int64]:
        """[packs] tokens of each pack; few runs ask for them."""
        tokens: npt.NDArray[np.int64] = read_table(self._table, ["tokens"]).column("tokens").to_numpy().astype(np.int64)
        return tokens


def _shuffled_bins(
    fits: npt.NDArray[np.int64], given: PackInput, settings: PackSettings, tell: Callable[[int], None]
) -> Bins:
    """Packs of sample numbers: neighbours of the corpus are spread over packs, and packs of all lengths mix."""
    samples = fits[Permutation(len(fits), settings.seed, 0).all()]
    bins = pack(given.tokens[samples], given.patches[samples], settings.limits, tell)
    lengths = np.diff(bins.starts)
    place = np.empty(len(bins), dtype=np.int64)
    place[Permutation(len(bins), settings.seed, 1).all()] = np.arange(len(bins))
    # Inside a pack the permuted place, not the length, decides the order.
    order = np.lexsort((bins.samples, np.repeat(place, lengths)))
    return Bins(samples[bins.samples[order]], np.concatenate([[0], np.cumsum(lengths[np.argsort(place)])]))


def _write_tables(folder: Path, packed: Packed, given: PackInput, rejected: npt.NDArray[np.int64]) -> None:
    lists = pa.ListArray.from_arrays(pa.array(packed.bins.starts, pa.int32()), pa.array(packed.bins.samples))
    columns = {"samples": lists, "tokens": packed.tokens, "patches": packed.patches}
    pq.write_table(pa.table(columns, schema=PLAN), folder / "plan.parquet", compression="zstd")
    writer = TableWriter(folder / "rejected.parquet", PLAN_REJECTED)
    rows = zip(given.ids(rejected), rejected.tolist(), reasons(given, packed.limits, rejected), strict=True)
    for row in rows:
        writer.append(*row)
    writer.close()


def _empty_folder(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _take_place(partial: Path, folder: Path) -> None:
    """Put ``partial`` where an older plan may be, which comes back when that fails."""
    older = folder.with_name(folder.name + ".older")
    shutil.rmtree(older, ignore_errors=True)
    if folder.exists():
        os.rename(folder, older)
    try:
        os.rename(partial, folder)
        sync_folder(folder.parent)
    except BaseException:
        if older.exists() and not folder.exists():
            os.rename(older, folder)
        raise
    shutil.rmtree(older, ignore_errors=True)


def _silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
