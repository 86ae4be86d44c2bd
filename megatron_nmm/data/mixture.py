"""The order of packs over weighted sources: a pure function of (seed, packs consumed), with nothing to save or restore.

``turns`` says which source a pack comes from. Inside a source, every epoch visits each pack once in an order of its
own; when weights count tokens or samples, every stretch of that order holds about as many of them as every other
(``spread``), so that shares are exact to 0.1 % over any 10,000 packs and not only in the long run. What is left is the
fullest pack: one that holds more than 0.1 % of the samples of a window moves its share by more.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from megatron_nmm.config.limits import most_packs
from megatron_nmm.data.permutation import Permutation
from megatron_nmm.data.shares import pack_shares, tempered
from megatron_nmm.data.spread import Spread, ranking
from megatron_nmm.data.turns import Turns
from megatron_nmm.errors import ConfigError


@dataclass(frozen=True)
class Portion:
    """One source as the mixture sees it."""

    name: str
    packs: int
    weight: float = 1.0
    max_epochs: float | None = None
    """Times the source is read at most; None = as often as asked for."""
    key: str = ""
    """Tells this source from others whatever its place in the list; empty = the name."""
    counts: npt.NDArray[np.integer] | None = field(default=None, repr=False, compare=False)
    """[packs] what the weight counts, in each pack of the plan; None = packs, 1 each."""

    @property
    def units(self) -> int:
        """Tokens, samples or packs of one epoch, whichever the weight counts."""
        return self.packs if self.counts is None else int(self.counts.sum())

    @property
    def mean(self) -> float:
        """What the weight counts in a mean pack."""
        return self.units / self.packs


@dataclass(frozen=True)
class Place:
    """Where one pack of the mixture is found."""

    source: int
    epoch: int
    pack: int
    """Row of the source's pack plan."""


class Mixture:
    """The order of packs over sources; endless unless every source is limited."""

    def __init__(
        self,
        portions: Sequence[Portion],
        seed: int,
        temperature: float = 1.0,
        start: int = 0,
        drawn: Sequence[int] | None = None,
    ) -> None:
        """``start``: first pack of the run this mixture holds for; ``drawn``: packs read of each source before it.

        With these two a run goes on with another mixture and no source begins its epoch anew. Raises ConfigError for no
        sources, sources without packs, and weights or limits that make no sense.
        """
        _require_packs(portions)
        self.portions = tuple(portions)
        self.seed = seed
        self.sizes = tuple(portion.packs for portion in portions)
        self.weights = tempered([portion.weight for portion in portions], temperature)
        """Shares asked for, relative to each other, after temperature."""
        shares = pack_shares(self.weights, [portion.units for portion in portions], self.sizes)
        limits = [_limit(number, portion) for number, portion in enumerate(portions)]
        self.turns = Turns(shares, limits, start, drawn)
        self._orders = _orders(portions)
        self._ranked = [_ranked(portion) for portion in portions]

    def __getitem__(self, number: int) -> Place:
        """Pack ``number`` of the run, counted from 0 over all ranks; IndexError past the end of a finite run."""
        source, drawn = self.turns[number]
        epoch, visit = divmod(drawn, self.sizes[source])
        ranked, key = self._ranked[source], (self.seed, self._orders[source], epoch)
        order = Permutation(self.sizes[source], *key) if ranked is None else Spread(ranked, *key)
        return Place(source, epoch, order[visit])

    def drawn(self, consumed: int) -> tuple[int, ...]:
        """Packs drawn from each source among the first ``consumed``."""
        return self.turns.drawn(consumed)

    def require(self, packs: int) -> None:
        """Raise ConfigError when the run needs more packs than all limits together leave."""
        total = self.turns.total
        if total is not None and packs > total:
            limits = ", ".join(
                f"{portion.name} {portion.max_epochs:g} x {portion.packs:,}" for portion in self.portions
            )
            raise ConfigError(
                f"the run reads {packs:,} packs (steps x data.global_batch), and its sources are used up after "
                f"{total:,} (max_epochs x packs: {limits}); take fewer steps, raise data.train.N.max_epochs of a "
                "source, or set one to none"
            )


def epochs(mixture: Mixture, consumed: int) -> dict[str, float]:
    """Source name -> times it has been read among the first ``consumed`` packs."""
    drawn = mixture.drawn(consumed)
    return {portion.name: packs / portion.packs for portion, packs in zip(mixture.portions, drawn, strict=True)}


def _require_packs(portions: Sequence[Portion]) -> None:
    """Raise ConfigError unless there is a source and each has packs that hold something."""
    if not portions:
        raise ConfigError("the mixture has no sources; set data.train to at least one corpus")
    for number, portion in enumerate(portions):
        if portion.packs < 1:
            raise ConfigError(
                f"source {number} of the mixture ({portion.name}) has no packs; pack it again or leave it out"
            )
        assert portion.counts is None or (len(portion.counts) == portion.packs and portion.counts.sum() > 0)


def _limit(number: int, portion: Portion) -> int | None:
    """Most packs that are drawn of a source; ConfigError when its limit is no number above 0 or allows not one pack."""
    if portion.max_epochs is None:
        return None
    if not (np.isfinite(portion.max_epochs) and portion.max_epochs > 0):
        raise ConfigError(
            f"data.train.{number}.max_epochs {portion.max_epochs} of {portion.name} must be a number above 0; use none "
            "for no limit"
        )
    limit = most_packs(portion.max_epochs, portion.packs)
    if limit < 1:
        raise ConfigError(
            f"data.train.{number}.max_epochs {portion.max_epochs:g} of {portion.name} is less than one of its "
            f"{portion.packs:,} packs; use at least {1 / portion.packs:.6f}, or leave the source out"
        )
    return limit


def _ranked(portion: Portion) -> npt.NDArray[np.int64] | None:
    """Packs of a source in order of what they hold; None when all hold the same, and any shuffle is even."""
    if portion.counts is None or portion.counts.min() == portion.counts.max():
        return None
    return ranking(portion.counts)


def _orders(portions: Sequence[Portion]) -> list[int]:
    """64 bits a source that choose its order, wherever it stands in the list; two of the same packs have two orders."""
    keys = [portion.key or portion.name for portion in portions]
    named = [f"{key}#{keys[:number].count(key)}" for number, key in enumerate(keys)]
    return [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") for name in named]
