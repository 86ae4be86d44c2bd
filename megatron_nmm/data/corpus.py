"""Opens a corpus for reading: checks that it is whole and fits the run, then gives samples and images by number.

Samples are numbered over the shards in the order of corpus.json; an image belongs to the shard of its sample.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from megatron_nmm.data.decoders.protocol import Size
from megatron_nmm.data.indexed import IndexedReader
from megatron_nmm.data.json_file import read_json
from megatron_nmm.data.raw.record import KINDS
from megatron_nmm.data.rule import Grid, ImageRule, rule_from_json
from megatron_nmm.data.tables import read_table
from megatron_nmm.data.tokenise import CORPUS_FORMAT, CORPUS_VERSION
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import DataError


@dataclass(frozen=True)
class Sample:
    """One sample of a corpus as tokenised."""

    id: str
    kind: int
    """Index into ``records.KINDS``."""
    tokens: npt.NDArray[np.int32]
    """[tokens], read-only view of tokens.bin."""
    images: tuple[tuple[int, int], ...]
    """(shard, number in its images.bin) of the image of each view; an image with several views is repeated."""
    sizes: tuple[Size, ...]
    """Pixels of each image as decoded at full size."""
    grids: tuple[Grid, ...]
    """Patches of each view."""


@dataclass(frozen=True)
class _Shard:
    """The opened files of one shard."""

    tokens: IndexedReader
    images: IndexedReader
    ids: pa.StringArray
    kinds: npt.NDArray[np.int8]
    image_numbers: npt.NDArray[np.int64]
    heights: npt.NDArray[np.int32]
    widths: npt.NDArray[np.int32]
    grid_rows: npt.NDArray[np.int32]
    grid_columns: npt.NDArray[np.int32]
    image_starts: npt.NDArray[np.int64]
    """[samples + 1] where each sample's views begin in the five arrays above."""


class Corpus:
    """An opened corpus folder; reading is safe from several threads."""

    def __init__(self, folder: str | Path) -> None:
        """Open and verify ``folder``; raises DataError when it is missing, unfinished, torn or of another format."""
        self.folder = Path(folder)
        self.info = read_info(self.folder)
        self.source = str(self.info["source"])
        self.fingerprint = str(self.info["fingerprint"])
        self.rule: ImageRule = rule_from_json(self.info["image_rule"], str(self.folder))
        self._shards = [_open_shard(self.folder, shard) for shard in self.info["shards"]]
        sizes = [len(shard.tokens) for shard in self._shards]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def sample(self, number: int) -> Sample:
        """Sample ``number`` of the corpus."""
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        shard, row = self._shards[place], number - int(self._starts[place])
        own = slice(int(shard.image_starts[row]), int(shard.image_starts[row + 1]))
        return Sample(
            id=shard.ids[row].as_py(),
            kind=int(shard.kinds[row]),
            tokens=shard.tokens[row],
            images=tuple((place, image) for image in shard.image_numbers[own].tolist()),
            sizes=tuple(map(Size, shard.heights[own].tolist(), shard.widths[own].tolist())),
            grids=tuple(map(Grid, shard.grid_rows[own].tolist(), shard.grid_columns[own].tolist())),
        )

    def image(self, shard: int, number: int) -> bytes:
        """Encoded bytes of one image."""
        encoded: bytes = self._shards[shard].images[number].tobytes()
        return encoded

    def require(self, tokenizer: Tokenizer, rule: ImageRule) -> None:
        """Raise DataError unless the corpus was made with this tokenizer and, if it has images, this image rule."""
        found = self.info["tokenizer"]["sha256"]
        if found != tokenizer.sha256:
            raise DataError(
                f"corpus {self.folder} was tokenised with {self.info['tokenizer']['file']} (sha256 {found[:12]}) but "
                f"the run's tokenizer {tokenizer.path} has {tokenizer.sha256[:12]}; set data.tokenizer to that file or "
                "tokenise the corpus again with tools/tokenise.py"
            )
        if self.info["counts"].get("images") and self.rule != rule:
            raise DataError(
                f"corpus {self.folder} was tokenised for {self.rule.settings()} but the run has {rule.settings()}; set "
                "these or tokenise the corpus again with tools/tokenise.py"
            )


def read_info(folder: Path) -> dict[str, Any]:
    """Content of a corpus folder's corpus.json; raises DataError when there is no finished corpus of this format."""
    if not folder.is_dir():
        raise DataError(f"corpus {folder} does not exist; make it with tools/tokenise.py --output {folder}")
    if not (folder / "corpus.json").is_file() and (folder / "shards").is_dir():
        raise DataError(f"corpus {folder} is unfinished: it has no corpus.json; run the same tools/tokenise.py again")
    info = read_json(folder / "corpus.json", "make the corpus with tools/tokenise.py")
    if info.get("format") != CORPUS_FORMAT or info.get("version") != CORPUS_VERSION:
        raise DataError(
            f"{folder}/corpus.json is {info.get('format')!r} version {info.get('version')}, not {CORPUS_FORMAT!r} "
            f"version {CORPUS_VERSION}; make the corpus again with this version's tools/tokenise.py"
        )
    return info


def _open_shard(corpus: Path, entry: dict[str, Any]) -> _Shard:
    """Open one shard after checking that every file has the size it was finished with."""
    folder = corpus / entry["folder"]
    for name, size in entry["files"].items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing; remove {folder} and run the same tools/tokenise.py again")
        if path.stat().st_size != size:
            raise DataError(
                f"{path} has {path.stat().st_size} bytes where {size} were written; the file is torn: "
                f"remove {folder} and run the same tools/tokenise.py again"
            )
    columns = ["id", "kind", "images", "heights", "widths", "grid_rows", "grid_columns"]
    table = read_table(folder / "samples.parquet", columns).combine_chunks()
    images = _chunk(table.column("images"), pa.list_(pa.int64()))
    heights, widths, grid_rows, grid_columns = (
        _chunk(table.column(name), pa.list_(pa.int32())).values.to_numpy() for name in columns[3:]
    )
    shard = _Shard(
        tokens=IndexedReader(folder / "tokens"),
        images=IndexedReader(folder / "images"),
        ids=_chunk(table.column("id"), pa.string()),
        kinds=_kinds(table.column("kind")),
        image_numbers=images.values.to_numpy(),
        heights=heights,
        widths=widths,
        grid_rows=grid_rows,
        grid_columns=grid_columns,
        image_starts=images.offsets.to_numpy().astype(np.int64),
    )
    if len(shard.tokens) != table.num_rows:
        raise DataError(
            f"{folder} has {len(shard.tokens)} token sequences but {table.num_rows} rows in samples.parquet; "
            f"remove {folder} and run the same tools/tokenise.py again"
        )
    return shard


def _chunk(column: pa.ChunkedArray, kind: pa.DataType) -> Any:
    """The column as one array."""
    return column.chunk(0) if column.num_chunks else pa.array([], kind)


def _kinds(column: pa.ChunkedArray) -> npt.NDArray[np.int8]:
    """[samples] index of each sample's kind."""
    names = pa.array(KINDS)
    return np.asarray(pyarrow.compute.index_in(column, value_set=names).to_numpy(), dtype=np.int8)
