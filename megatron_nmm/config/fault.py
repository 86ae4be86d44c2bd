"""A fault of a run: the fact with its value, and the remedy with the nearest legal values.

Everything here is arithmetic and wording; what counts as a fault stands in bounds.py and rules.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from megatron_nmm.errors import ConfigError

WORLD = "world size"
"""Pseudo key of the number of processes, which is no part of the tree."""

SHOWN = 6
"""Legal values a remedy lists at most; beyond that, only the nearest ones help."""


@dataclass(frozen=True)
class Fault:
    """One thing that keeps a run from starting."""

    key: str
    """Dotted key of the value at fault, e.g. ``model.heads``."""
    fact: str
    """What is wrong, with the value, e.g. ``model.heads 16 is not divisible by parallel.tensor 3``."""
    remedy: str
    """What to do, e.g. ``use parallel.tensor 1, 2, 4, 8 or 16``."""

    def __str__(self) -> str:
        return f"{self.fact}; {self.remedy}"


def divisors(number: int) -> list[int]:
    """Every divisor of ``number`` (> 0), ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def multiples_around(number: int, unit: int) -> list[int]:
    """The positive multiples of ``unit`` (> 0) next to ``number``: below and above, or ``number`` itself."""
    below = number // unit * unit
    return sorted({multiple for multiple in (below, below if below == number else below + unit) if multiple > 0})


def around(number: int, legal: Iterable[int]) -> list[int]:
    """The nearest value of ``legal`` below ``number`` and the nearest one above; either may not exist."""
    values = set(legal)
    below = [v for v in values if v <= number]
    above = [v for v in values if v > number]
    return ([max(below)] if below else []) + ([min(above)] if above else [])


def either(values: Sequence[object]) -> str:
    """``1, 2 or 4``."""
    words = [str(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def use(*choices: tuple[str, float, Sequence[int] | str]) -> str:
    """The remedy ``use KEY a, b or c, or KEY d``: choices are (key, present value, legal values) that each help alone.

    Choices without a legal value are left out, the present value is never offered, and of a long list the ``SHOWN``
    values nearest to the present one are named. A legal value may also be given as its text.
    """
    parts = []
    for key, present, legal in choices:
        if isinstance(legal, str):
            parts.append(f"{key} {legal}")
            continue
        nearest = sorted((v for v in legal if v != present), key=lambda v: abs(v - present))[:SHOWN]
        if nearest:
            parts.append(f"{key} {either(sorted(nearest))}")
    return "use " + ", or ".join(parts)


def config_error(what: str, faults: Sequence[object]) -> ConfigError:
    """One error that lists all ``faults``; ``what`` names where they stand, e.g. ``the run configuration``."""
    if len(faults) == 1:
        return ConfigError(f"{what}: {faults[0]}")
    lines = [f"  {number}. {fault}" for number, fault in enumerate(faults, 1)]
    return ConfigError("\n".join([f"{what}: {len(faults)} faults", *lines]))
