"""How often a planned run reads each source, which of them runs out, and what can be done about it.

Shares count tokens, as in data/mixture.py. A source may be read a number of times; what lies beyond it must come from
more data, from a smaller share, or not at all.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_nmm.errors import ConfigError

EPOCHS = 4.0
"""Times a source is read unless told otherwise: up to about four, repeated text was found nearly as good as new text
(Muennighoff et al., "Scaling Data-Constrained Language Models", arXiv 2305.16264)."""


@dataclass(frozen=True)
class Source:
    """What there is of one source."""

    name: str
    tokens: float
    epochs: float = EPOCHS
    """Times it may be read."""

    @property
    def most(self) -> float:
        """Tokens it can give."""
        return self.tokens * self.epochs


@dataclass(frozen=True)
class Reading:
    """What a run reads of a source."""

    source: Source
    share: float
    """Of the run's tokens, 0 to 1."""
    asked: float
    """Tokens."""

    @property
    def epochs(self) -> float:
        """Times it is read."""
        return self.asked / self.source.tokens

    @property
    def missing(self) -> float:
        """Tokens beyond what it can give."""
        return max(0.0, self.asked - self.source.most)

    @property
    def lasts(self) -> float:
        """Part of the run after which it has been read as often as it may, at most 1."""
        return min(1.0, self.source.most / self.asked)


@dataclass(frozen=True)
class Readings:
    """A whole mixture's."""

    rows: tuple[Reading, ...]
    tokens: float

    @property
    def longest(self) -> float:
        """Tokens of the longest run with these shares that repeats no source too often."""
        return min(row.source.most / row.share for row in self.rows)

    @property
    def remedy(self) -> str:
        """What runs out first and three ways out; empty where all last."""
        short = [row for row in self.rows if row.missing]
        if not short:
            return ""
        first = min(short, key=lambda row: row.lasts)
        more = ", ".join(f"{row.missing / row.source.epochs:.3g} new tokens of {row.source.name}" for row in short)
        less = ", ".join(f"{row.source.name} {100 * row.source.most / self.tokens:.3g} %" for row in short)
        return (
            f"{first.source.name} runs out after {100 * first.lasts:.0f} % of the run. Bring {more}; or lower shares "
            f"({less}) in favour of the others; or train {self.longest:.3g} tokens (--tokens {self.longest:.3g})"
        )


def read(text: str) -> Source:
    """``name=tokens[:epochs]``; ConfigError when it is anything else."""
    name, equals, rest = text.partition("=")
    tokens, _, epochs = rest.partition(":")
    try:
        numbers = float(tokens), float(epochs or EPOCHS)
    except ValueError:
        numbers = (math.nan, math.nan)
    if not (name and equals and all(math.isfinite(number) and number > 0 for number in numbers)):
        raise ConfigError(
            f"source {text!r} is not name=tokens[:epochs] with numbers above 0; write it as caption=3e11 or text=1e11:2"
        )
    return Source(name, *numbers)


def readings(sources: Sequence[Source], shares: Mapping[str, float], tokens: float) -> Readings:
    """What a run of ``tokens`` reads; ``shares`` are in any unit, one for each source.

    Raises ConfigError where a name stands twice.
    """
    names = [source.name for source in sources]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"source {twice[0]} is given {names.count(twice[0])} times; add up its tokens and give it once"
        )
    whole = sum(shares.values())
    rows = [Reading(one, shares[one.name] / whole, tokens * shares[one.name] / whole) for one in sources]
    return Readings(tuple(rows), tokens)
