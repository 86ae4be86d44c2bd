"""Cuts raw inputs into units of work and reads each as a stream of records, the same whatever the cut."""

from collections.abc import Iterator, Sequence
from typing import Any

from megatron_nmm.data.raw.build import Misfit
from megatron_nmm.data.raw.cut import Unit, cut
from megatron_nmm.data.raw.folder import expand
from megatron_nmm.data.raw.jsonl import read_jsonl
from megatron_nmm.data.raw.opening import chunks, fingerprint, size_of
from megatron_nmm.data.raw.parquet import read_parquet
from megatron_nmm.data.raw.record import Record, Rejection
from megatron_nmm.data.raw.schema import Schema
from megatron_nmm.data.raw.webdataset import read_webdataset
from megatron_nmm.errors import DataError

PATIENCE = 100
"""Records that may lack fields of the schema before the first that has them; more are a wrong schema."""

Found = Iterator[tuple[int, Record | Rejection]]

__all__ = ["Unit", "plan_units", "read_unit", "unit_identity"]


def plan_units(inputs: Sequence[str], unit_bytes: int | None = None) -> list[Unit]:
    """The units of all ``inputs`` in order: files, folders or URLs of either.

    The cut depends on each file alone: plain JSONL at line ends and Parquet at row groups, about ``unit_bytes`` each
    (default: equal parts, a sixteenth of the file but at least 8 MiB and at most 1 GiB); packed files and tars are one
    unit each. Raises DataError when an input is missing, of no known kind or no Parquet file in spite of its name.
    """
    return [unit for name in inputs for file in expand(name) for unit in cut(file, unit_bytes)]


def unit_identity(unit: Unit) -> dict[str, Any]:
    """What the result of a unit is recognised by; costs two small reads."""
    size = size_of(unit.input)
    first, last = (unit.first, unit.last) if unit.format == "jsonl" else (0, size)
    return {
        "name": unit.label,
        "format": unit.format,
        "bytes": size,
        "first": unit.first,
        "last": unit.last,
        "fingerprint": fingerprint(unit.input, first, last),
    }


def read_unit(unit: Unit, schema: Schema | None) -> Found:
    """(bytes of the unit read so far, at most ``unit.bytes``; record or rejection) in the order of the file.

    ``schema`` None means the one that comes with the input, else the layout is recognised record by record. Lazy and of
    constant memory. Raises DataError when the file cannot be read, is not of its format, or no record has the fields of
    the schema.
    """
    if unit.bytes == 0 and size_of(unit.input) == 0:
        yield 0, Rejection("", unit.label, "the file is empty")
        return
    found = _read(unit, schema or unit.schema)
    yield from found if unit.first else _fitting(found, unit)


def _read(unit: Unit, schema: Schema | None) -> Found:
    kind, _, packing = unit.format.partition(".")
    if kind == "parquet":
        return read_parquet(unit, schema)
    content = chunks(unit.input, packing, unit.first, unit.last)
    if kind == "tar":
        return read_webdataset(content, unit.label, schema, frozenset(unit.excluded))
    return read_jsonl(content, unit.label, unit.first, schema)


def _fitting(found: Found, unit: Unit) -> Found:
    """``found`` as it is; raises DataError when none of its first is usable and the schema's fields are missing."""
    held: list[tuple[int, Rejection]] = []
    for done, record in found:
        if isinstance(record, Record):
            yield from held
            yield done, record
            yield from found
            return
        held.append((done, record))
        if len(held) > PATIENCE:
            break
    for _, rejection in held:
        if isinstance(rejection, Misfit):
            raise DataError(f"{unit.input}: the schema does not fit: {rejection.where}: {rejection.reason}")
    yield from held
    yield from found
