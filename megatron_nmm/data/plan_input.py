"""What packing reads of a corpus: the size of every sample, and which samples no pack may hold, with the reason.

Ids stay on disk. They are read shard by shard where they are needed: to find repeated ones, and to name what is
rejected.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from megatron_nmm.data.corpus import read_info
from megatron_nmm.data.packing import Limits
from megatron_nmm.data.tables import read_table
from megatron_nmm.errors import DataError

IDS_AT_ONCE = 1 << 16
"""Ids that are Python strings at the same time."""

Tell = Callable[[str, int, int], None]
"""Takes what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True)
class PackInput:
    """A corpus as packing sees it."""

    corpus: Path
    info: dict[str, Any]
    """Content of corpus.json."""
    tokens: npt.NDArray[np.int64]
    """[samples]"""
    patches: npt.NDArray[np.int64]
    """[samples]"""
    shard_starts: npt.NDArray[np.int64]
    """[shards + 1] number of the first sample of each shard."""
    repeated: npt.NDArray[np.bool_]
    """[samples] whether the id stands earlier in the corpus."""

    def ids(self, samples: npt.NDArray[np.int64]) -> Iterator[str]:
        """The ids of ``samples`` (ascending), one shard in memory at a time."""
        shards = np.searchsorted(self.shard_starts, samples, side="right") - 1
        for shard, places in groupby(range(len(samples)), key=lambda place: int(shards[place])):
            rows = samples[list(places)] - self.shard_starts[shard]
            column = _read_shard(self.corpus, self.info["shards"][shard], ["id"]).column("id")
            for start in range(0, len(rows), IDS_AT_ONCE):
                yield from column.take(pa.array(rows[start : start + IDS_AT_ONCE])).to_pylist()


def read_input(corpus: Path, tell: Tell) -> PackInput:
    """Read the sizes of all samples; raises DataError when there is no whole corpus of this format."""
    info = read_info(corpus)
    tokens, patches, hashes = [], [], []
    for number, shard in enumerate(info["shards"]):
        tell("reading", number, len(info["shards"]))
        table = _read_shard(corpus, shard, ["id", "tokens", "patches"])
        tokens.append(table.column("tokens").to_numpy().astype(np.int64))
        patches.append(table.column("patches").to_numpy().astype(np.int64))
        hashes += [_hashes(table.column("id").slice(start, IDS_AT_ONCE)) for start in range(0, len(table), IDS_AT_ONCE)]
    tell("reading", len(info["shards"]), len(info["shards"]))
    none = np.zeros(0, dtype=np.int64)
    starts = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
    unchecked = PackInput(
        corpus, info, np.concatenate([none, *tokens]), np.concatenate([none, *patches]), starts, np.zeros(0, np.bool_)
    )
    return replace(unchecked, repeated=_repeated(unchecked, np.concatenate([none, *hashes])))


def reasons(given: PackInput, limits: Limits, samples: npt.NDArray[np.int64]) -> Iterator[str]:
    """Why no pack holds each of these samples, and what would help."""
    for sample in samples.tolist():
        tokens, patches = given.tokens[sample], given.patches[sample]
        if given.repeated[sample]:
            yield "the id stands earlier in the corpus already; give every record an id of its own"
        elif limits.patches is not None and patches > limits.patches:
            yield (
                f"{patches} patches do not fit a pack of {limits.patches}; "
                f"use --vision-patches {patches} or more, or split the document"
            )
        else:
            yield (
                f"{tokens} tokens do not fit a pack of {limits.tokens}; "
                f"use --sequence-length {tokens} or more, or split the document"
            )


def usable(given: PackInput, limits: Limits) -> npt.NDArray[np.bool_]:
    """[samples] whether a pack may hold the sample."""
    fits = (given.tokens <= limits.tokens) & ~given.repeated
    return fits if limits.patches is None else fits & (given.patches <= limits.patches)


def _read_shard(corpus: Path, shard: dict[str, Any], columns: list[str]) -> pa.Table:
    """Columns of a shard's samples; raises DataError unless the file has all the rows it was finished with."""
    path = corpus / shard["folder"] / "samples.parquet"
    table = read_table(path, columns)
    if len(table) != shard["counts"]["samples"]:
        raise DataError(
            f"{path} has {len(table)} samples where {shard['counts']['samples']} were written; the corpus is torn: "
            f"remove {path.parent} and run the same tools/tokenise.py again"
        )
    return table


def _hashes(ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A number for each id, equal for equal ids in this process."""
    return np.fromiter(map(hash, ids.to_pylist()), dtype=np.int64, count=len(ids))


def _repeated(given: PackInput, hashes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """[samples] whether the same id stands earlier; where hashes meet, the ids themselves decide."""
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]
    suspects = np.unique(np.concatenate([order[1:][same], order[:-1][same]]))
    repeated = np.zeros(len(hashes), dtype=np.bool_)
    seen: set[str] = set()
    for sample, name in zip(suspects.tolist(), given.ids(suspects), strict=True):
        repeated[sample] = name in seen
        seen.add(name)
    return repeated
