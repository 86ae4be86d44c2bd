"""What a corpus holds: samples and tokens by kind, how they spread, and what was rejected why.

The tables are read a row group at a time and kept as counts of values, so memory does not grow with the corpus.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_nmm.data.corpus import read_info
from megatron_nmm.data.raw.record import KINDS
from megatron_nmm.errors import DataError

EXAMPLES = 3
"""Rejected records kept per reason."""
_VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|\d[\d,._]*")
"""What differs between two records rejected for one reason."""

Tell = Callable[[int, int], None]
"""Takes (samples done, samples in all)."""


@dataclass
class Kind:
    """The samples of one kind."""

    samples: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    images: int = 0
    """Images of all samples; one that stands in two counts twice."""
    lengths: Counter[int] = field(default_factory=Counter)
    """Tokens of a sample -> samples."""


@dataclass
class Reason:
    """One reason of rejection."""

    records: int = 0
    examples: list[tuple[str, str, str]] = field(default_factory=list)
    """(id, where, reason in full) of the first ones."""


@dataclass
class Overview:
    """A corpus in numbers."""

    info: dict[str, Any]
    """corpus.json."""
    kinds: dict[str, Kind]
    grids: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(patch rows, patch columns) of a view -> views."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(height, width) of an image in pixels -> images."""
    reasons: dict[str, Reason] = field(default_factory=dict)
    """Most frequent first; values are left out of the key, so that it is the same for many records."""

    @property
    def lengths(self) -> Counter[int]:
        """Tokens of a sample -> samples, of all kinds."""
        return sum((kind.lengths for kind in self.kinds.values()), Counter())


def overview(corpus: Path, tell: Tell) -> Overview:
    """Go through the tables of ``corpus``; raises DataError when one is missing or damaged."""
    info = read_info(corpus)
    found = Overview(info, {kind: Kind() for kind in KINDS})
    total, done = int(info["counts"].get("samples", 0)), 0
    for shard in info["shards"]:
        folder = corpus / shard["folder"]
        for rows in _batches(folder / "samples.parquet"):
            _add_samples(found, rows)
            done += len(rows)
            tell(done, total)
        for rows in _batches(folder / "rejected.parquet"):
            _add_rejected(found, rows)
    found.reasons = dict(sorted(found.reasons.items(), key=lambda item: -item[1].records))
    return found


def reason_key(reason: str) -> str:
    """``reason`` without the values that differ from record to record."""
    return _VALUES.sub("…", reason)


def quantile(counts: Counter[int], share: float) -> int:
    """The smallest value that at least ``share`` of the counted things do not exceed; 0 without any."""
    values = np.array(sorted(counts), dtype=np.int64)
    below = np.cumsum([counts[value] for value in values.tolist()])
    return int(values[np.searchsorted(below, share * below[-1])]) if len(values) else 0


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}); make the corpus again with tools/tokenise.py") from error


def _add_samples(found: Overview, rows: pa.RecordBatch) -> None:
    names = rows.column("kind").to_numpy(zero_copy_only=False)
    tokens, supervised = (rows.column(name).to_numpy() for name in ("tokens", "supervised_tokens"))
    lists = rows.column("images")
    parents = np.repeat(np.arange(len(rows)), np.diff(lists.offsets.to_numpy()))
    images = lists.flatten().to_numpy()
    first = np.ones(len(images), dtype=bool)
    if found.info["image_rule"].get("multi_scale"):
        # The views of one image stand next to each other; only its first is a new image.
        first[1:] = (images[1:] != images[:-1]) | (parents[1:] != parents[:-1])
    for name in np.unique(names).tolist():
        kind, own = found.kinds[name], names == name
        kind.samples += int(own.sum())
        kind.tokens += int(tokens[own].sum())
        kind.supervised_tokens += int(supervised[own].sum())
        kind.images += int((own[parents] & first).sum())
        values, counts = np.unique(tokens[own], return_counts=True)
        kind.lengths.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    found.grids.update(_pairs(rows, ("grid_rows", "grid_columns"), np.ones(len(images), dtype=bool)))
    found.sizes.update(_pairs(rows, ("heights", "widths"), first))


def _pairs(rows: pa.RecordBatch, columns: tuple[str, str], chosen: npt.NDArray[np.bool_]) -> Counter[tuple[int, int]]:
    values = np.stack([rows.column(column).flatten().to_numpy()[chosen] for column in columns], axis=1)
    pairs, counts = np.unique(values, axis=0, return_counts=True)
    return Counter({(int(a), int(b)): int(n) for (a, b), n in zip(pairs, counts, strict=True)})


def _add_rejected(found: Overview, rows: pa.RecordBatch) -> None:
    for row in rows.to_pylist():
        reason = found.reasons.setdefault(reason_key(row["reason"]), Reason())
        reason.records += 1
        if len(reason.examples) < EXAMPLES:
            reason.examples.append((row["id"], row["where"], row["reason"]))
