"""The Parquet tables of a corpus and a pack plan: their columns, and a writer that holds one row group at a time."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
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
"""One row per sample, in the order of tokens.bin. The lists hold one entry per view of an image as the model sees it:
``images`` are sequence numbers in images.bin, heights and widths are pixels of the image as decoded (all three repeated
for the views of one image), grids are patches. ``sha256`` is that of the raw record."""

REJECTED = pa.schema([("id", pa.string()), ("source", pa.string()), ("where", pa.string()), ("reason", pa.string())])
"""One row per record that is not in the corpus."""

PLAN = pa.schema([("samples", pa.list_(pa.int64())), ("tokens", pa.int32()), ("patches", pa.int32())])
"""One row per pack: sample rows of the corpus (counted over its shards in order), and what they fill."""

PLAN_REJECTED = pa.schema([("id", pa.string()), ("sample", pa.int64()), ("reason", pa.string())])
"""One row per sample that no pack holds."""


class TableWriter:
    """Appends rows to a Parquet file, one row group at a time; values wait in columns, as Parquet wants them."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._columns: list[list[Any]] = [[] for _ in schema]
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self.count = 0

    def append(self, *values: Any) -> None:
        """Add one row, its values in the order of the schema; the group is written when it is full."""
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        self.count += 1
        if len(self._columns[0]) >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left and the file's footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._columns[0]:
            arrays = [_array(column, field.type) for column, field in zip(self._columns, self._schema, strict=True)]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
            self._columns = [[] for _ in self._schema]


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """``values``, none of them missing, as Arrow holds them.

    ``pa.array`` would do, but it imports pandas where that is installed: seconds, and memory in every worker.
    """
    if pa.types.is_list(kind):
        flat = [value for own in values for value in own]
        offsets = _array(_ends(values), pa.int32())
        return pa.ListArray.from_arrays(offsets, _array(flat, kind.value_type), type=kind)
    if pa.types.is_string(kind):
        encoded = [value.encode() for value in values]
        offsets = pa.py_buffer(np.array(_ends(encoded), np.int32))
        return pa.StringArray.from_buffers(len(values), offsets, pa.py_buffer(b"".join(encoded)))
    if pa.types.is_fixed_size_binary(kind):
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(b"".join(values))])
    numbers = np.array(values, np.dtype(f"i{kind.bit_width // 8}"))
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(numbers)])


def _ends(values: Sequence[Sequence[Any]]) -> list[int]:
    """[values + 1] 0, and where each value ends when they stand one after the other."""
    return list(accumulate(map(len, values), initial=0))


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The table in ``path``; raises DataError when it is missing or cut short."""
    try:
        return pq.read_table(path, columns=columns)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; write it again with the tool that made the folder") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); write it again with the tool that made the folder") from error


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of the table in ``path``, a row group in memory at a time; raises DataError like ``read_table``."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROW_GROUP):
                yield from batch.to_pylist()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; write it again with the tool that made the folder") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); write it again with the tool that made the folder") from error
