"""Cuts one raw file into units that can be read apart from each other; the cut depends on the file alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megatron_nmm.data.raw.folder import RawFile
from megatron_nmm.data.raw.formats import known_format
from megatron_nmm.data.raw.opening import open_file, size_of
from megatron_nmm.data.raw.parquet import row_groups
from megatron_nmm.data.raw.schema import Schema

PARTS = 16
"""Units a file is cut into unless they would become smaller or larger than the limits."""
SMALLEST = 8 << 20
"""Files up to this many bytes are not cut."""
LARGEST = 1 << 30
SEARCH = 1 << 16
"""Bytes read at a time to find the next line end."""


@dataclass(frozen=True)
class Unit:
    """A part of a raw input that is read on its own; picklable."""

    input: str
    """Local path or URL of the file."""
    format: str
    """``jsonl``, ``parquet`` or ``tar``, with ``.gz`` or ``.zst`` when packed."""
    first: int
    last: int
    """Bytes of a plain JSONL file, row groups of a Parquet file, else all bytes of the file; ``last`` is left out."""
    number: int
    """In its file."""
    label: str = ""
    """The file's name, or its path in the folder that was given: what ids and messages begin with."""
    bytes: int = 0
    """Bytes of the file that belong to the unit, for progress."""
    schema: Schema | None = None
    """The schema the input itself brings."""
    excluded: tuple[str, ...] = ()
    """Keys the input itself leaves out."""


def cut(file: RawFile, unit_bytes: int | None) -> Iterator[Unit]:
    """The units of ``file`` in order, at least one; see ``plan_units``."""
    kind = known_format(file.name)
    size = size_of(file.name)
    wanted = unit_bytes or _even_part(size)
    if kind == "parquet" and size:
        groups = row_groups(file.name)
        places = _groups(groups, wanted)
        sizes = [sum(groups[first:last]) for first, last in places]
    elif kind == "jsonl":
        places = _lines(file.name, size, wanted)
        sizes = [last - first for first, last in places]
    else:
        places, sizes = [(0, size)], [size]
    for number, ((first, last), part) in enumerate(zip(places, sizes, strict=True)):
        yield Unit(file.name, kind, first, last, number, file.label, part, file.schema, file.excluded)


def _even_part(size: int) -> int:
    """Bytes of a part when nobody asks for a size: all parts alike, so that workers taking turns end together."""
    most = min(max(-(-size // PARTS), SMALLEST), LARGEST)
    return -(-size // -(-size // most)) if size else most


def _groups(sizes: Sequence[int], wanted: int) -> list[tuple[int, int]]:
    """Ranges of row groups of about ``wanted`` bytes, at least one group each."""
    places, first, held = [], 0, 0
    for number, size in enumerate(sizes):
        if held and held + size > wanted:
            places.append((first, number))
            first, held = number, 0
        held += size
    return [*places, (first, len(sizes))]


def _lines(name: str, size: int, wanted: int) -> list[tuple[int, int]]:
    """Ranges of bytes of about ``wanted`` bytes that begin where a line begins."""
    if size <= wanted:
        return [(0, size)]
    begins = [0]
    with open_file(name) as file:
        while begins[-1] + wanted < size:
            # The byte before the nominal place may be a line end, which makes it exact.
            place = begins[-1] + wanted - 1
            file.seek(place)
            while (piece := file.read(SEARCH)) and b"\n" not in piece:
                place += len(piece)
            place += piece.find(b"\n") + 1
            if not piece or place >= size:
                break
            begins.append(place)
    return list(zip(begins, [*begins[1:], size], strict=True))
