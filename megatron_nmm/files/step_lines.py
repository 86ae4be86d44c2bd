"""Files of one JSON object a line in the order of training steps, without duplicates after a resume."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""Plain JSON values; "step" is the training step the line belongs to."""


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


def append(path: Path, *records: Record) -> None:
    """Add lines, all or none. Raises OSError when the disk refuses, ValueError for numbers JSON does not have (nan)."""
    lines = "".join(json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n" for record in records).encode()
    with path.open("ab", buffering=0) as stream:  # a buffer would write again what is taken back below
        start = stream.tell()
        try:
            while lines:
                lines = lines[stream.write(lines) :]
        except OSError:
            # Half a line would hide every later one from readers.
            with contextlib.suppress(OSError):
                os.truncate(path, start)
            raise


def sync(path: Path) -> None:
    """Force the lines of ``path`` to permanent storage, if there is such a file; raises OSError."""
    if path.exists():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


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
            record = parse(line)
            if record is None:
                return
            yield end, record


def parse(line: bytes) -> Record | None:
    """The record of a line; None when the line is not one of ours."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
