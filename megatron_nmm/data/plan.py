"""The pack plan of a corpus: which samples share a packed row, worked out once and written beside the corpus.

``<corpus>/plan-<sequence_length>/{plan.parquet,rejected.parquet,report.json}``; the folder appears whole or not at all.
"""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_nmm.config import SourceConfig
from megatron_nmm.data.corpus import read_info
from megatron_nmm.data.json_file import read_json, write_json
from megatron_nmm.data.packing import Bins, Limits, lower_bound, pack
from megatron_nmm.data.permutation import Permutation
from megatron_nmm.data.tables import PLAN, PLAN_REJECTED, read_table
from megatron_nmm.errors import DataError
from megatron_nmm.files.durable import sync_files, sync_folder

PLAN_VERSION = 1
REPORT = "report.json"


@dataclass(frozen=True)
class PackSettings:
    """What decides a plan, besides the corpus."""

    sequence_length: int
    vision_patches: int | None = None
    """Most encoder patches in a pack; None = as many as tokens."""
    seed: int = 0
    """Chooses which samples of equal size share a pack, and the order of packs."""


@dataclass(frozen=True)
class _Sizes:
    """What packing needs to know of each sample: [samples] each."""

    ids: pa.ChunkedArray
    tokens: npt.NDArray[np.int64]
    patches: npt.NDArray[np.int64]


def plan_folder(corpus: Path, sequence_length: int) -> Path:
    """Where a run looks for the plan of this packed length unless it names another."""
    return Path(SourceConfig(str(corpus)).plan_path(sequence_length))


def write_plan(corpus: Path, folder: Path, settings: PackSettings) -> dict[str, Any]:
    """Pack ``corpus`` into ``folder``, replacing an older plan there, and return the report.

    Raises DataError when the corpus cannot be read, no sample fits, ``folder`` is something else than a plan, or the
    disk refuses; an older plan is intact then.
    """
    info = read_info(corpus)
    if folder.exists() and not (folder / REPORT).is_file():
        raise DataError(f"{folder} exists and is no pack plan; give another place, or remove it")
    sizes = _read_sizes(corpus, info)
    limits = Limits(settings.sequence_length, settings.vision_patches)
    rejected = _rejections(sizes, limits)
    fits = np.setdiff1d(np.arange(len(sizes.tokens)), np.array(list(rejected), dtype=np.int64), assume_unique=True)
    if not len(fits):
        reason = next(iter(rejected.values()), "the corpus holds no samples; look into its rejected.parquet")
        raise DataError(f"no sample of {corpus} can be packed: {reason}")
    bins = _shuffled_bins(fits, sizes, limits, settings.seed)
    report = _report(info, settings, sizes, fits, bins)
    try:
        _write_folder(folder, bins, sizes, rejected, report)
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
        table = read_table(folder / "plan.parquet", ["samples"]).combine_chunks()
        lists = table.column("samples").chunk(0)
        self._samples: npt.NDArray[np.int64] = lists.values.to_numpy()
        self._starts: npt.NDArray[np.int32] = lists.offsets.to_numpy()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def samples(self, pack_number: int) -> list[int]:
        """Sample numbers of one pack, in order."""
        numbers: list[int] = self._samples[self._starts[pack_number] : self._starts[pack_number + 1]].tolist()
        return numbers


def _read_sizes(corpus: Path, info: dict[str, Any]) -> _Sizes:
    columns = ["id", "tokens", "patches"]
    tables = [read_table(corpus / shard["folder"] / "samples.parquet", columns) for shard in info["shards"]]
    table = pa.concat_tables(tables)
    return _Sizes(
        ids=table.column("id"),
        tokens=table.column("tokens").to_numpy().astype(np.int64),
        patches=table.column("patches").to_numpy().astype(np.int64),
    )


def _rejections(sizes: _Sizes, limits: Limits) -> dict[int, str]:
    """Sample number -> why no pack can hold it, in order of the numbers."""
    reasons: dict[int, str] = {}
    for sample in np.flatnonzero(sizes.tokens > limits.tokens).tolist():
        reasons[sample] = (
            f"{sizes.tokens[sample]} tokens do not fit a pack of {limits.tokens}; "
            f"use --sequence-length {sizes.tokens[sample]} or more, or split the document"
        )
    most_patches = limits.patches if limits.patches is not None else np.iinfo(np.int64).max
    for sample in np.flatnonzero(sizes.patches > most_patches).tolist():
        reasons[sample] = (
            f"{sizes.patches[sample]} patches do not fit a pack of {limits.patches}; "
            f"use --vision-patches {sizes.patches[sample]} or more, or split the document"
        )
    codes = sizes.ids.combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    for sample in np.setdiff1d(np.arange(len(codes)), first, assume_unique=True).tolist():
        reasons[sample] = "the id stands earlier in the corpus already; give every record an id of its own"
    return dict(sorted(reasons.items()))


def _shuffled_bins(fits: npt.NDArray[np.int64], sizes: _Sizes, limits: Limits, seed: int) -> Bins:
    """Packs of sample numbers: neighbours of the corpus are spread over packs, and packs of all lengths mix."""
    samples = fits[Permutation(len(fits), seed, 0).all()]
    bins = pack(sizes.tokens[samples], sizes.patches[samples], limits)
    order = Permutation(len(bins), seed, 1).all()
    # Inside a pack the permuted place, not the length, decides the order.
    return [samples[sorted(bins[number])].tolist() for number in order]


def _report(
    info: dict[str, Any], settings: PackSettings, sizes: _Sizes, fits: npt.NDArray[np.int64], bins: Bins
) -> dict[str, Any]:
    """What a user wants to know of a plan, and what a run must check."""
    limits = Limits(settings.sequence_length, settings.vision_patches)
    patches = np.array([int(sizes.patches[samples].sum()) for samples in bins])
    bound = lower_bound(sizes.tokens[fits], sizes.patches[fits], limits)
    return {
        "version": PLAN_VERSION,
        "corpus": info["fingerprint"],
        **asdict(settings),
        "samples": len(sizes.tokens),
        "packed": len(fits),
        "rejected": len(sizes.tokens) - len(fits),
        "packs": len(bins),
        "lower_bound": bound,
        "above_lower_bound": round(len(bins) / bound - 1, 6),
        "fill": round(int(sizes.tokens[fits].sum()) / (len(bins) * settings.sequence_length), 6),
        "samples_per_pack": round(len(fits) / len(bins), 3),
        "patches": {
            "p50": int(np.percentile(patches, 50)),
            "p99": int(np.percentile(patches, 99)),
            "max": int(patches.max()),
        },
    }


def _write_folder(folder: Path, bins: Bins, sizes: _Sizes, rejected: dict[int, str], report: dict[str, Any]) -> None:
    """Write everything under a temporary name, then take the place of an older plan."""
    partial, older = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".older")
    for leftover in (partial, older):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    columns = {
        "samples": bins,
        "tokens": [int(sizes.tokens[samples].sum()) for samples in bins],
        "patches": [int(sizes.patches[samples].sum()) for samples in bins],
    }
    pq.write_table(pa.table(columns, schema=PLAN), partial / "plan.parquet", compression="zstd")
    lost = {
        "id": [sizes.ids[sample].as_py() for sample in rejected],
        "sample": list(rejected),
        "reason": list(rejected.values()),
    }
    pq.write_table(pa.table(lost, schema=PLAN_REJECTED), partial / "rejected.parquet", compression="zstd")
    write_json(partial / REPORT, report)
    sync_files(partial)
    if folder.exists():
        os.rename(folder, older)
    os.rename(partial, folder)
    sync_folder(folder.parent)
    shutil.rmtree(older, ignore_errors=True)
