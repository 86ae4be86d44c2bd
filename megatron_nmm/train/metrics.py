"""metrics.jsonl: one JSON object a line, in the order of steps, without duplicates after a resume."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = "metrics.jsonl"

Record = dict[str, Any]
"""Plain JSON values; "event" is "step" or "validation", "step" its number."""


def read(path: Path) -> list[Record]:
    """Every whole line of ``path``; none when there is no file. A line cut short by a crash ends the list."""
    return [record for _, record in _lines(path)]


def truncate(path: Path, step: int) -> Record | None:
    """Drop what was written after ``step``, so that steps taken again appear once; returns the last line kept."""
    end, last = 0, None
    for line_end, record in _lines(path):
        if record["step"] > step:
            break
        end, last = line_end, record
    if path.exists():
        os.truncate(path, end)
    return last


def append(path: Path, record: Record) -> None:
    """Add one line. Raises OSError when it cannot be written, ValueError for a number JSON does not have (nan, inf)."""
    line = json.dumps(record, allow_nan=False) + "\n"
    with path.open("a", encoding="utf-8") as stream:
        stream.write(line)


def _lines(path: Path) -> Iterator[tuple[int, Record]]:
    """(offset of its end, record) of every whole line."""
    if not path.exists():
        return
    end = 0
    with path.open("rb") as stream:
        for line in stream:
            end += len(line)
            if not line.endswith(b"\n"):
                return
            record = _parse(line)
            if record is None:
                return
            yield end, record


def _parse(line: bytes) -> Record | None:
    """The record of a line; None when the line is not one of ours."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
