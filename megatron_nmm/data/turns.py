"""Which source each pack of a run comes from: a pure function of the pack's number, with nothing to save or restore.

Sources take turns by a table in which every source is due at evenly spaced deadlines (earliest deadline first, as in
Pfair scheduling: Baruah et al., 1996), so after any n packs the count of each source is within one of n times its
share. A source that may be read only so often leaves when its last pack is drawn; the others go on in their old
proportions. That splits the run into phases, at most one more than there are limits.
"""

import bisect
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class _Table:
    """One period of turns; [n] arrays."""

    source: npt.NDArray[np.int32]
    """[period] source of each place."""
    before: npt.NDArray[np.int32]
    """[period] earlier places of the same source."""
    places: tuple[npt.NDArray[np.int32], ...]
    """Per source, its places in order."""

    @property
    def period(self) -> int:
        """Packs after which the table repeats."""
        return len(self.source)

    def drawn(self, source: int, packs: int) -> int:
        """How many of the first ``packs`` are of ``source``."""
        periods, place = divmod(packs, self.period)
        return periods * len(self.places[source]) + int(np.searchsorted(self.places[source], place))

    def after(self, source: int, turns: int) -> int:
        """Packs until ``source`` has had its ``turns``-th turn."""
        periods, turn = divmod(turns - 1, len(self.places[source]))
        return periods * self.period + int(self.places[source][turn]) + 1


@dataclass(frozen=True)
class _Phase:
    """A stretch of the run during which the same sources take part."""

    start: int
    """First pack."""
    drawn: tuple[int, ...]
    """Packs drawn of each source before ``start``."""
    table: _Table


class Turns:
    """The sources of packs ``start``, ``start + 1``, ... of a run."""

    def __init__(
        self,
        shares: Sequence[int],
        limits: Sequence[int | None] | None = None,
        start: int = 0,
        drawn: Sequence[int] | None = None,
    ) -> None:
        """``shares``: positive relative shares of packs, at least one.

        limits: most packs of each source, None = any number; drawn: packs of each source read before pack ``start``.
        """
        self.shares = tuple(shares)
        self.limits = tuple(limits or [None] * len(shares))
        self.start = start
        self._phases: list[_Phase] = []
        self.used_up: dict[int, int] = {}
        """Source -> packs of the run after which nothing is left of it."""
        self.total: int | None = None
        """Packs of the run, those before ``start`` included; None = endless."""
        self._plan(tuple(drawn or [0] * len(shares)))
        self._starts = [phase.start for phase in self._phases]

    def __getitem__(self, number: int) -> tuple[int, int]:
        """(source of pack ``number``, packs drawn of it before); IndexError outside of the run."""
        phase = self._phase(number)
        periods, place = divmod(number - phase.start, phase.table.period)
        source = int(phase.table.source[place])
        earlier = periods * len(phase.table.places[source]) + int(phase.table.before[place])
        return source, phase.drawn[source] + earlier

    def drawn(self, consumed: int) -> tuple[int, ...]:
        """Packs drawn of each source among the first ``consumed`` of the run; ``consumed`` at least ``start``."""
        if consumed == self.total:
            return self._last
        phase = self._phase(consumed)
        return _count(phase.drawn, phase.table, consumed - phase.start)

    def _phase(self, number: int) -> _Phase:
        if number < self.start or (self.total is not None and number >= self.total):
            raise IndexError(f"pack {number} of a run of packs {self.start} to {self.total}")
        return self._phases[bisect.bisect_right(self._starts, number) - 1]

    def _plan(self, drawn: tuple[int, ...]) -> None:
        """Lay out the phases, each until a source is used up."""
        at = self.start
        while True:
            left = {s: limit - drawn[s] for s, limit in enumerate(self.limits) if limit is not None}
            self.used_up |= {source: at for source, packs in left.items() if packs <= 0 and source not in self.used_up}
            if len(self.used_up) == len(self.shares):
                self.total, self._last = at, drawn
                return
            table = _table(tuple(0 if s in self.used_up else share for s, share in enumerate(self.shares)))
            self._phases.append(_Phase(at, drawn, table))
            ends = [table.after(source, packs) for source, packs in left.items() if source not in self.used_up]
            if not ends:
                return
            drawn = _count(drawn, table, min(ends))
            at += min(ends)


def _count(drawn: tuple[int, ...], table: _Table, packs: int) -> tuple[int, ...]:
    """``drawn`` and what ``packs`` turns of the table add."""
    return tuple(count + table.drawn(source, packs) for source, count in enumerate(drawn))


@lru_cache(maxsize=32)
def _table(shares: tuple[int, ...]) -> _Table:
    """One period of turns for these shares; a share of 0 has none."""
    source = _choices(shares)
    places = tuple(np.flatnonzero(source == s).astype(np.int32) for s in range(len(shares)))
    before = np.empty(len(source), dtype=np.int32)
    for own in places:
        before[own] = np.arange(len(own), dtype=np.int32)
    return _Table(source, before, places)


def _choices(shares: Sequence[int]) -> npt.NDArray[np.int32]:
    """[sum of shares] source of each place: the one due first among those whose next place has come."""
    period = sum(shares)
    waiting = [(0, -(-period // share), source, 1) for source, share in enumerate(shares) if share]
    heapq.heapify(waiting)
    due: list[tuple[int, int, int]] = []
    chosen = np.empty(period, dtype=np.int32)
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
