"""What a run will read of each source, told before it starts: shares, epochs, and when a limit is reached."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_nmm.data.mixture import Mixture

WINDOW = 10_000
"""Packs over which shares are held."""


@dataclass(frozen=True)
class Forecast:
    """One source over a run; shares are of what the weights count."""

    name: str
    packs: int
    """In one epoch."""
    asked: float
    """Share asked for, after temperature."""
    of_packs: float
    """Share of packs while no source is used up."""
    read: float
    """Share over the whole run."""
    drawn: int
    """Packs over the whole run."""
    epochs: float
    used_up: int | None
    """Packs of the run after which nothing is left of the source; None when the run does not get there."""


def forecast(mixture: Mixture, packs: int) -> tuple[Forecast, ...]:
    """Each source of ``mixture`` over a run of ``packs``, or up to its end when that comes first."""
    packs = packs if mixture.turns.total is None else min(packs, mixture.turns.total)
    drawn = mixture.drawn(packs)
    asked = _normalised(mixture.weights)
    of_packs = _normalised(mixture.turns.shares)
    read = _normalised([count * portion.mean for count, portion in zip(drawn, mixture.portions, strict=True)])
    ends = [mixture.turns.used_up.get(source) for source in range(len(drawn))]
    return tuple(
        Forecast(
            name=portion.name,
            packs=portion.packs,
            asked=float(asked[source]),
            of_packs=float(of_packs[source]),
            read=float(read[source]),
            drawn=drawn[source],
            epochs=drawn[source] / portion.packs,
            used_up=end if end is not None and end <= packs else None,
        )
        for source, (portion, end) in enumerate(zip(mixture.portions, ends, strict=True))
    )


@dataclass(frozen=True)
class Course:
    """Sources over the course of a run; a change of shares stands at its exact place."""

    consumed: npt.NDArray[np.int64]
    """[points] packs of the run."""
    epochs: npt.NDArray[np.float64]
    """[points, sources] times read so far."""
    shares: npt.NDArray[np.float64]
    """[points - 1, sources] shares asked for between two points, of what the weights count."""


def course(mixture: Mixture, packs: int, points: int = 100) -> Course:
    """The first ``packs`` of a run (or all there are) at ``points`` places and wherever a source is used up."""
    packs = packs if mixture.turns.total is None else min(packs, mixture.turns.total)
    ends = [end for end in mixture.turns.used_up.values() if end < packs]
    consumed = np.unique([*np.linspace(0, packs, points).astype(np.int64), *ends])
    epochs = np.array([np.divide(mixture.drawn(int(at)), mixture.sizes) for at in consumed])
    last = np.array([mixture.turns.used_up.get(source, packs) for source in range(len(mixture.sizes))])
    present = np.array(mixture.weights) * (consumed[:-1, None] < last)
    return Course(consumed, epochs, present / present.sum(1, keepdims=True))


@dataclass(frozen=True)
class Realised:
    """Shares of what was drawn, of what the weights count."""

    packs: int
    window: int
    """Packs of a window: 10,000, or all when fewer were drawn."""
    shares: tuple[float, ...]
    """Over all packs."""
    worst: tuple[float, ...]
    """Farthest that any window is from the share asked for."""


def realised(mixture: Mixture, packs: int, tell: Callable[[int], None]) -> Realised:
    """Draw the first ``packs`` packs one by one and weigh them; stops where a source is used up and shares change."""
    packs = min([packs, *mixture.turns.used_up.values()])
    held = np.zeros((packs + 1, len(mixture.portions)))
    for number in range(packs):
        place = mixture[number]
        counts = mixture.portions[place.source].counts
        held[number + 1, place.source] = 1 if counts is None else counts[place.pack]
        if number % 1000 == 0:
            tell(number)
    total = held.cumsum(0)
    window = min(WINDOW, packs)
    stretches = total[window:] - total[:-window]
    apart = np.abs(stretches / stretches.sum(1, keepdims=True) - _normalised(mixture.weights)).max(0)
    return Realised(packs, window, tuple(_normalised(total[-1]).tolist()), tuple(apart.tolist()))


def _normalised(shares: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    values = np.asarray(shares, dtype=np.float64)
    return values / values.sum()
