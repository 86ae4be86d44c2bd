"""Reads the rows of a Parquet file as records, in constant memory however large its row groups are.

What is decoded at once is a page of each column, whose size the writer of the file chose.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from megatron_nmm.data.raw.build import record_of
from megatron_nmm.data.raw.opening import cannot_read, open_file
from megatron_nmm.data.raw.record import Record, Rejection
from megatron_nmm.data.raw.schema import Schema, describe, detect
from megatron_nmm.errors import DataError

if TYPE_CHECKING:
    from megatron_nmm.data.raw.cut import Unit

BATCH_BYTES = 4 << 20
"""Bytes of rows decoded at a time."""
MAX_ROWS = 1024
"""Rows decoded at a time at most."""
BUFFER = 1 << 20
"""Bytes read at a time of each column: a column of a row group is never held as a whole."""


def row_groups(name: str) -> list[int]:
    """Bytes of each row group; raises DataError when the file is no Parquet."""
    with _opened(name) as file:
        return [file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups)]


def read_parquet(unit: "Unit", schema: Schema | None) -> Iterator[tuple[int, Record | Rejection]]:
    """(bytes of the unit read so far, record or rejection) for every row of the unit's row groups.

    Raises DataError when the file is no Parquet or lacks a column of ``schema``, or has no known layout.
    """
    with _opened(unit.input) as file:
        names = set(file.schema_arrow.names)
        layout = schema or detect(names)
        missing = [field for field in layout.needed if field not in names] if layout else []
        if layout is None or missing:
            fact = f"has no column {missing[0]!r}" if missing else "has an unknown layout"
            raise DataError(
                f"{unit.input} {fact}; its columns are {describe(names)}: name them with --schema role=column"
            )
        columns = [name for name in layout.to_json().values() if name in names]
        groups = [file.metadata.row_group(group) for group in range(unit.first, unit.last)]
        row = sum(file.metadata.row_group(group).num_rows for group in range(unit.first))
        rows = sum(group.num_rows for group in groups)
        if not rows:
            return
        size = max(1, min(MAX_ROWS, BATCH_BYTES * rows // max(1, unit.bytes)))
        count = 0
        for batch in file.iter_batches(size, list(range(unit.first, unit.last)), columns, use_threads=False):
            for values in _values(batch):
                where = f"{unit.label}:{row + count}"
                count += 1
                if isinstance(values, str):
                    yield unit.bytes * count // rows, Rejection("", where, values)
                else:
                    yield unit.bytes * count // rows, record_of(values, layout, where, where, digest(values))


def _values(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The values of every row by column, or why they cannot be read."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for row in range(batch.num_rows):
            try:
                yield batch.slice(row, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield f"a text is not UTF-8 at byte {error.start}"


def digest(values: Mapping[str, Any]) -> bytes:
    """sha256 of a row: its values by name, encoded images by their own sha256."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=_plain).encode()).digest()


def _plain(value: Any) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)


@contextmanager
def _opened(name: str) -> Iterator[Any]:
    """The open Parquet file; errors of reading it name it."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with open_file(name) as raw, ParquetFile(raw, buffer_size=BUFFER, pre_buffer=False) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        # What is wrong inside the file is an OSError, too, but one without a number.
        if isinstance(error, OSError) and error.errno:
            raise cannot_read(name, error) from error
        reason = " ".join(str(error).split())
        raise DataError(f"{name} is damaged or no Parquet file ({reason}); fetch it again") from error
