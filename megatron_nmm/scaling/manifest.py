"""A study's manifest: one trained model a line, appended whole; a line that cannot be used is named, never fitted."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from megatron_nmm.errors import ConfigError, DataError
from megatron_nmm.scaling.point import AVERAGE, FAMILIES, Point

NAME = "manifest.jsonl"

TEXTS = ("run", "study", "family", "size", "mixture")
WHOLE = ("seed", "experts", "top_k")
POSITIVE = ("active", "total", "tokens", "flops", "experts", "top_k")
NOT_NEGATIVE = ("vision", "vision_tokens", "counted_flops", "seconds")
REQUIRED = tuple(f.name for f in fields(Point) if f.default is MISSING and f.default_factory is MISSING)
KNOWN = tuple(f.name for f in fields(Point))


@dataclass(frozen=True)
class Fault:
    """A line that is left out, and why."""

    line: int
    """Counted from 1."""
    run: str
    """Empty where the line does not tell."""
    what: str

    def __str__(self) -> str:
        return f"line {self.line}{f' ({self.run})' if self.run else ''}: {self.what}"


@dataclass(frozen=True)
class Manifest:
    """What a manifest holds."""

    path: Path
    points: tuple[Point, ...]
    """In the order of the file, each run once."""
    faults: tuple[Fault, ...]


def append(path: Path, point: Point) -> None:
    """Add a line and force it to permanent storage; many processes may append to one file.

    The line is one write at the end of the file, so lines of two writers never mix. Half a line that a killed writer
    left is closed first: it stays as a line of its own, which ``read`` names. Raises DataError on a point that ``read``
    would refuse, OSError when the disk does.
    """
    record = asdict(point)
    if fault := _wrong(record):
        raise DataError(f"run {point.run!r} cannot go into {path}: {fault}")
    line = json.dumps(record, allow_nan=False, ensure_ascii=False).encode() + b"\n"
    new = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            line = b"\n" + line
        if os.write(handle, line) != len(line):
            raise OSError(
                f"{path}: the disk took only a part of the line of run {point.run!r}; free space, run it again"
            )
        os.fsync(handle)
    finally:
        os.close(handle)
    if new:
        _sync_name(path)


def read(path: Path) -> Manifest:
    """The points of ``path``, a manifest or a folder with one, and its faults; DataError when there is none."""
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"{path} does not exist; tools/sweep.py writes it, or name another folder or {NAME}")
    found: list[tuple[int, Point]] = []
    faults: list[Fault] = []
    for number, line in _lines(path.read_bytes()):
        result = _parse(number, line)
        if isinstance(result, Fault):
            faults.append(result)
        else:
            found.append((number, result))
    points, repeated = _once(found)
    return Manifest(path, points, tuple(sorted((*faults, *repeated), key=lambda fault: fault.line)))


def select(
    points: Sequence[Point],
    family: str | None = None,
    mixture: str | None = None,
    kind: str = AVERAGE,
    experts: int | None = None,
) -> tuple[Point, ...]:
    """The points of one family, one mixture and one number of experts on which ``kind`` was measured.

    None takes the only one there is. Raises ConfigError, naming what there is and the option that chooses: points of
    different mixtures or families never come into one fit by accident.
    """
    chosen = _narrow(points, "family", family, "--family")
    chosen = _narrow(chosen, "mixture", mixture, "--mixture")
    chosen = _narrow(chosen, "experts", experts, "--experts")
    kinds = {tuple(sorted(point.losses)) for point in chosen}
    if kind == AVERAGE and len(kinds) > 1:
        shared = sorted(set.intersection(*(set(names) for names in kinds)))
        raise ConfigError(
            f"runs were measured on different kinds of data ({'; '.join(map(', '.join, sorted(kinds)))}), so their "
            f"means cannot be compared; choose one with --kind{_choices(shared)}"
        )
    if kind != AVERAGE and (lacking := [point.run for point in chosen if kind not in point.losses]):
        raise ConfigError(
            f"{len(lacking)} of {len(chosen)} runs have no loss on {kind!r}, the first is {lacking[0]!r}; "
            f"measured were {', '.join(sorted({name for names in kinds for name in names}))}"
        )
    return chosen


def _narrow(points: Sequence[Point], name: str, value: Any, option: str) -> tuple[Point, ...]:
    there = sorted({getattr(point, name) for point in points})
    if value is None and len(there) > 1:
        listed = ", ".join(f"{one} ({sum(getattr(p, name) == one for p in points)} runs)" for one in there)
        raise ConfigError(f"{len(there)} values of {name} in one study: {listed}; choose one with {option}")
    return tuple(points) if value is None else only(points, name, value, option)


def only(points: Sequence[Point], name: str, value: Any, option: str) -> tuple[Point, ...]:
    """The points whose field ``name`` is ``value``; ConfigError, naming what ``option`` may be, where there is none."""
    chosen = tuple(point for point in points if getattr(point, name) == value)
    if not chosen:
        there = sorted({getattr(point, name) for point in points})
        raise ConfigError(f"no run has {name} {value!r}; {option} may be {', '.join(map(str, there)) or 'nothing'}")
    return chosen


def _choices(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else "; they share none"


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, line) of every line that is not blank, the newline kept to tell a whole last line."""
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        if line.strip():
            yield number, line


def _parse(number: int, line: bytes) -> Point | Fault:
    try:
        record = json.loads(line)
    except ValueError:
        cut = "cut short by a writer that was killed" if not line.endswith(b"\n") else "not JSON, or cut short"
        return Fault(number, "", f"{cut}: {line[:40].decode(errors='replace').strip()!r}...; run it again")
    if not isinstance(record, dict):
        return Fault(number, "", f"{type(record).__name__} where an object is expected")
    run = record.get("run")
    if fault := _wrong(record):
        return Fault(number, run if isinstance(run, str) else "", fault)
    return Point(**record)


def _wrong(record: dict[str, Any]) -> str:
    """Everything that keeps a record from being a point, or nothing."""
    if missing := [name for name in REQUIRED if name not in record]:
        return f"no {', '.join(missing)}"
    if unknown := sorted(set(record) - set(KNOWN)):
        return f"unknown keys {', '.join(unknown)}; known are {', '.join(KNOWN)}"
    return "; ".join((*_wrong_types(record), *_wrong_values(record)))


def _wrong_types(record: dict[str, Any]) -> Iterator[str]:
    for name, value in record.items():
        expected = "text" if name in TEXTS else "a whole number" if name in WHOLE else "a number"
        if name == "losses":
            good, expected = isinstance(value, dict) and bool(value), "losses by kind of data"
        elif name in TEXTS:
            good = isinstance(value, str) and bool(value)
        else:
            good = isinstance(value, int if name in WHOLE else int | float) and not isinstance(value, bool)
        if not good:
            yield f"{name} is {value!r}, not {expected}"


def _wrong_values(record: dict[str, Any]) -> Iterator[str]:
    """Faults of values, of those that have the right type."""
    if isinstance(record["family"], str) and record["family"] not in FAMILIES:
        yield f"unknown family {record['family']!r}; known are {', '.join(FAMILIES)}"
    for name in (*POSITIVE, *NOT_NEGATIVE):
        value = record.get(name, 1)
        if isinstance(value, int | float) and not _in_range(value, above=name in POSITIVE):
            yield f"{name} is {value}, not a finite number {'above 0' if name in POSITIVE else 'of at least 0'}"
    if isinstance(record["losses"], dict):
        for kind, value in record["losses"].items():
            if not (isinstance(value, int | float) and _in_range(value, above=True)):
                yield f"loss on {kind} is {value}, not a finite number above 0: the run diverged or was not measured"
    for part, whole in (("vision", "active"), ("vision_tokens", "tokens"), ("active", "total"), ("top_k", "experts")):
        less, more = record.get(part, 1), record.get(whole, 1)
        if isinstance(less, int | float) and isinstance(more, int | float) and less > more > 0:
            yield f"{part} {less:g} is more than {whole} {more:g}"


def _in_range(value: float, above: bool) -> bool:
    return math.isfinite(value) and (value > 0 if above else value >= 0)


def _once(found: Iterable[tuple[int, Point]]) -> tuple[tuple[Point, ...], list[Fault]]:
    """Each run once: equal lines count as one, runs whose lines differ are left out altogether."""
    lines: dict[str, list[tuple[int, Point]]] = {}
    for number, point in found:
        lines.setdefault(point.run, []).append((number, point))
    points, faults = [], []
    for run, group in lines.items():
        numbers = ", ".join(str(number) for number, _ in group)
        if len(group) > 1 and any(point != group[0][1] for _, point in group):
            what = f"lines {numbers} tell different things of one run; none is used: remove the wrong ones"
            faults += [Fault(number, run, what) for number, _ in group]
            continue
        points.append(group[0][1])
        faults += [Fault(number, run, f"repeats line {group[0][0]}; counted once") for number, _ in group[1:]]
    return tuple(points), faults


def _sync_name(path: Path) -> None:
    from megatron_nmm.files.durable import sync_folder

    sync_folder(path.parent)
