"""The order of packs over weighted sources: a pure function of (seed, packs consumed), with nothing to save or restore.

The source of pack n comes from a table in which every source is due at evenly spaced deadlines (earliest deadline
first, as in Pfair scheduling: Baruah et al., 1996), so after any n packs the count of each source is within one of
n times its share. Inside a source, every epoch visits each pack once in an order of its own.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

import numpy as np
import numpy.typing as npt

from megatron_nmm.data.permutation import Permutation
from megatron_nmm.errors import ConfigError

MAX_PERIOD = 1 << 16
"""Longest table of source choices; weights whose common denominator is larger are rounded to multiples of 1 / this."""


@dataclass(frozen=True)
class Place:
    """Where one pack of the mixture is found."""

    source: int
    epoch: int
    pack: int
    """Row of the source's pack plan."""


class Mixture:
    """The endless order of packs over sources of the given sizes and weights."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        """``sizes``: packs of each source; ``weights``: relative shares of packs, at least one above 0."""
        if not sizes or len(sizes) != len(weights):
            raise ConfigError("the mixture has no sources; set data.train to at least one corpus")
        if min(weights) < 0 or not all(np.isfinite(weights)) or max(weights) <= 0:
            raise ConfigError(
                f"mixture weights {list(weights)} must be at least 0 with one above 0; set data.train.N.weight"
            )
        for source, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
            if weight > 0 and size < 1:
                raise ConfigError(f"source {source} of the mixture has no packs; pack it again or set its weight to 0")
        self.sizes = tuple(sizes)
        self.seed = seed
        self._choice = _choices(whole_shares(weights))
        counts = np.zeros((len(self._choice) + 1, len(sizes)), dtype=np.int64)
        counts[np.arange(len(self._choice)) + 1, self._choice] = 1
        self._counts = np.cumsum(counts, axis=0)

    def __getitem__(self, number: int) -> Place:
        """Pack ``number`` of the run, counted from 0 over all ranks."""
        period, slot = divmod(number, len(self._choice))
        source = int(self._choice[slot])
        drawn = period * int(self._counts[-1, source]) + int(self._counts[slot, source])
        epoch, row = divmod(drawn, self.sizes[source])
        order = Permutation(self.sizes[source], self.seed, source, epoch)
        return Place(source, epoch, order[row])

    def drawn(self, consumed: int) -> tuple[int, ...]:
        """Packs drawn from each source among the first ``consumed``."""
        period, slot = divmod(consumed, len(self._choice))
        totals = period * self._counts[-1] + self._counts[slot]
        return tuple(int(total) for total in totals)


def whole_shares(weights: Sequence[float]) -> tuple[int, ...]:
    """The smallest whole numbers in the ratio of the weights as written in decimal, or rounded to MAX_PERIOD in sum."""
    exact = [Fraction(repr(float(weight))) for weight in weights]
    common = lcm(*(weight.denominator for weight in exact))
    shares = [int(weight * common) for weight in exact]
    divisor = gcd(*shares)
    shares = [share // divisor for share in shares]
    if sum(shares) <= MAX_PERIOD:
        return tuple(shares)
    total = sum(exact)
    # A source that is asked for at all keeps at least one place in the table.
    return tuple(max(1, round(weight * MAX_PERIOD / total)) if weight else 0 for weight in exact)


def _choices(shares: Sequence[int]) -> npt.NDArray[np.int64]:
    """[sum of shares] source of each place: the one due first among those whose next place has come."""
    period = sum(shares)
    waiting = [(0, -(-period // share), source, 1) for source, share in enumerate(shares) if share]
    heapq.heapify(waiting)
    due: list[tuple[int, int, int]] = []
    chosen = np.empty(period, dtype=np.int64)
    for slot in range(period):
        while waiting and waiting[0][0] <= slot:
            _, deadline, source, turn = heapq.heappop(waiting)
            heapq.heappush(due, (deadline, source, turn))
        _, source, turn = heapq.heappop(due)
        chosen[slot] = source
        share = shares[source]
        # Turn t of a source may start at floor((t - 1) / w) and must be placed before ceil(t / w), w its share.
        release, deadline = turn * period // share, -(-(turn + 1) * period // share)
        heapq.heappush(waiting, (release, deadline, source, turn + 1))
    return chosen
