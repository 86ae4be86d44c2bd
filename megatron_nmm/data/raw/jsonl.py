"""Reads JSONL line by line; every line that is not blank is a record or a rejection that says where and why."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from megatron_nmm.data.raw.build import record_of
from megatron_nmm.data.raw.opening import Chunks, CutStream
from megatron_nmm.data.raw.record import Record, Rejection
from megatron_nmm.data.raw.schema import Schema, detect

MAX_LINE = 1 << 26
"""Longest line that is parsed; a longer one is rejected unread."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Line:
    """One line without its end."""

    done: int
    """Bytes of the file read so far."""
    offset: int
    """Where it begins in the content, counted from where reading began."""
    data: bytes | None
    """None when it is longer than :data:`MAX_LINE`."""
    ended: bool
    """Whether a line end follows."""


def lines(chunks: Chunks) -> Iterator[Line]:
    """The lines of the content; memory is bounded whatever their length."""
    carry, offset, long, done = b"", 0, 0, 0
    for done, chunk in chunks:
        if long:
            # Inside a line that is too long: nothing is kept until its end.
            head, end, chunk = chunk.partition(b"\n")
            long += len(head)
            if not end:
                continue
            yield Line(done, offset, None, True)
            offset, long = offset + long + 1, 0
        *whole, carry = (carry + chunk).split(b"\n")
        for line in whole:
            yield Line(done, offset, line, True)
            offset += len(line) + 1
        if len(carry) > MAX_LINE:
            carry, long = b"", len(carry)
    if carry or long:
        yield Line(done, offset, None if long else carry, False)


def read_jsonl(
    chunks: Chunks, label: str, first: int, schema: Schema | None
) -> Iterator[tuple[int, Record | Rejection]]:
    """(bytes of the file read so far, record or rejection) for every line that is not blank.

    ``first`` is the byte of the file where ``chunks`` begins. Ids count bytes from the begin of the file, whatever the
    cut; messages count lines where that is possible.
    """
    number, done, place = 1, 0, first
    try:
        for line in lines(chunks):
            done, place = line.done, first + line.offset
            where = f"{label}@{place}" if first else f"{label}:{number}"
            number += 1
            if line.data is None:
                yield done, Rejection("", where, f"the line has more than {MAX_LINE} bytes; cut it into records")
                continue
            data = line.data if place else line.data.removeprefix(_BYTE_ORDER_MARK)
            if not data.strip():
                continue
            found = parse(data.rstrip(b"\r"), schema, f"{label}@{place}", where)
            if isinstance(found, Rejection) and not line.ended:
                reason = f"{found.reason}; the file ends in this line: it may have been cut"
                found = type(found)(found.id, found.where, reason)
            yield done, found
    except CutStream as cut:
        where = f"{label}@{place}" if first else f"{label}:{number}"
        yield done, Rejection("", where, f"{cut}; the records before it are kept, fetch the file again")


def parse(line: bytes, schema: Schema | None, place: str, where: str) -> Record | Rejection:
    """One raw line as a record, or the first reason why it is none."""
    try:
        values = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Rejection("", where, f"not UTF-8 at byte {error.start}")
    except (ValueError, RecursionError) as error:
        return Rejection("", where, f"broken JSON: {error}")
    if not isinstance(values, dict):
        return Rejection("", where, f"the line is a JSON {type(values).__name__}, not an object")
    return record_of(values, schema or detect(values.keys()), place, where, hashlib.sha256(line).digest())
