"""The Parquet tables of a corpus and a pack plan: their columns, and a writer that holds one row group at a time."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_nmm.errors import DataError

ROW_GROUP = 8192

SAMPLES = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("kind", pa.string()),
        ("tokens", pa.int32()),
        ("supervised_tokens", pa.int32()),
        ("patches", pa.int32()),
        ("images", pa.list_(pa.int64())),
        ("heights", pa.list_(pa.int32())),
        ("widths", pa.list_(pa.int32())),
        ("grid_rows", pa.list_(pa.int32())),
        ("grid_columns", pa.list_(pa.int32())),
        ("sha256", pa.binary(32)),
    ]
)
"""One row per sample, in the order of tokens.bin. ``images`` are sequence numbers in images.bin; heights and widths
are pixels as decoded, grids are patches. ``sha256`` is that of the raw record."""

REJECTED = pa.schema([("id", pa.string()), ("source", pa.string()), ("where", pa.string()), ("reason", pa.string())])
"""One row per record that is not in the corpus."""

PLAN = pa.schema([("samples", pa.list_(pa.int64())), ("tokens", pa.int32()), ("patches", pa.int32())])
"""One row per pack: sample rows of the corpus (counted over its shards in order), and what they fill."""

PLAN_REJECTED = pa.schema([("id", pa.string()), ("sample", pa.int64()), ("reason", pa.string())])
"""One row per sample that no pack holds."""


class TableWriter:
    """Appends rows to a Parquet file, one row group at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self.count = 0

    def append(self, row: dict[str, Any]) -> None:
        """Add one row; the group is written when it is full."""
        self._rows.append(row)
        self.count += 1
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left and the file's footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The table in ``path``; raises DataError when it is missing or cut short."""
    try:
        return pq.read_table(path, columns=columns)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; write it again with the tool that made the folder") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); write it again with the tool that made the folder") from error
