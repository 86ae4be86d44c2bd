"""One line of the check of the papers: what they print, what this package computes from other printed values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A checked number."""

    what: str
    paper: float
    refit: float
    source: str
    """Where the paper prints it."""
    unit: float = 1.0
    """Both are shown divided by it, such as 1e9 for billions."""

    @property
    def difference(self) -> float:
        """Refit less paper, in units."""
        return (self.refit - self.paper) / self.unit

    @property
    def relative(self) -> float:
        """Of the paper's value."""
        return (self.refit - self.paper) / abs(self.paper)


@dataclass(frozen=True)
class Section:
    """Rows that are checked the same way."""

    title: str
    how: str
    """What is computed from what."""
    rows: Sequence[Row]


@dataclass(frozen=True)
class Verdict:
    """A quantity with several printed values, and what the refit says of them."""

    what: str
    readings: Mapping[str, float]
    refit: float | None
    """None where no fit can decide."""
    why: str
    unit: float = 1.0

    @property
    def supported(self) -> str:
        """The reading next to the refit."""
        if self.refit is None:
            return "undecided"
        refit = self.refit
        return min(self.readings, key=lambda place: abs(self.readings[place] - refit))
