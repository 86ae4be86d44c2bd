"""Draws texts from raw units up to a number of bytes, every unit giving its share, for what learns from a sample."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from megatron_nmm.data.raw.record import Rejection
from megatron_nmm.data.raw.schema import Schema
from megatron_nmm.data.raw.units import Unit, read_unit

KEPT = 10
TELL_EVERY = 1000
"""Records between two reports of progress."""


@dataclass
class Drawn:
    """What a sample took, filled while it is drawn."""

    records: int = 0
    text_bytes: int = 0
    rejected: int = 0
    examples: list[Rejection] = field(default_factory=list)
    """The first :data:`KEPT` rejections."""


def sample_texts(
    units: Sequence[Unit], schema: Schema | None, limit: int | None, drawn: Drawn, tell: Callable[[int, int], None]
) -> Iterator[str]:
    """The texts of the units, without their images: all, or about ``limit`` bytes from the begin of every unit.

    A unit gives in proportion to its bytes, and what one lacks the later ones make up for. ``tell`` hears (bytes of the
    units done, records so far). Raises DataError when an input cannot be read.
    """
    total = sum(unit.bytes for unit in units)
    before = 0
    for unit in units:
        rest = total - before
        quota = None if limit is None else (limit - drawn.text_bytes) * unit.bytes // max(1, rest)
        taken = 0
        for done, record in read_unit(unit, schema):
            drawn.records += 1
            if isinstance(record, Rejection):
                drawn.rejected += 1
                if len(drawn.examples) < KEPT:
                    drawn.examples.append(record)
            else:
                for text in record.segments:
                    if text:
                        taken += len(text.encode())
                        yield text
            if drawn.records % TELL_EVERY == 0:
                share = unit.bytes * taken // quota if quota else 0
                tell(before + max(done, min(share, unit.bytes)), drawn.records)
            if quota is not None and taken >= quota:
                break
        drawn.text_bytes += taken
        before += unit.bytes
        tell(before, drawn.records)
