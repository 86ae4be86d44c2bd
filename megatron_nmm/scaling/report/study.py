"""A study as pictures and the report show it: its runs, the lines that could not be used, and its fits."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from megatron_nmm.scaling.law import Fitted
from megatron_nmm.scaling.point import AVERAGE, Point


@dataclass(frozen=True)
class Study:
    """One folder's."""

    name: str
    points: tuple[Point, ...]
    fits: tuple[Fitted, ...] = ()
    faults: tuple[str, ...] = ()
    """Lines of the manifest that were left out."""
    encoders: tuple[tuple[float, float], ...] = field(default=())
    """(parameters of the language model, best size of its encoder), where the study has such a grid."""

    def headline(self) -> tuple[Fitted, ...]:
        """The fit of each family that pictures show: of the mean loss where it was fitted, else of the first kind."""
        chosen: dict[str, Fitted] = {}
        for fitted in sorted(self.fits, key=lambda one: one.kind != AVERAGE):
            chosen.setdefault(fitted.family, fitted)
        return tuple(chosen.values())

    def points_of(self, fitted: Fitted) -> tuple[Point, ...]:
        """The runs a fit was made of; where it does not name them, those of its family and mixture."""
        if fitted.runs:
            return tuple(point for point in self.points if point.run in set(fitted.runs))
        chosen = (fitted.family, fitted.mixture)
        return tuple(point for point in self.points if (point.family, point.mixture) == chosen)


def by_size(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Label -> its runs in order of tokens; labels in order of N."""
    found: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda one: (one.active, one.tokens)):
        found.setdefault(point.size, []).append(point)
    return found


def loss_at(runs: Sequence[Point], kind: str, quantity: str, value: float) -> float | None:
    """A size's loss at a value of "flops" or "tokens" between two of its runs; None outside them.

    Read off the line between the two in the logarithm of the quantity; runs of several seeds count with their mean.
    """
    found: dict[float, list[float]] = {}
    for run in runs:
        found.setdefault(float(getattr(run, quantity)), []).append(run.loss(kind))
    xs = np.array(sorted(found))
    if len(xs) < 2 or not xs[0] * 0.999 <= value <= xs[-1] * 1.001:
        return None
    return float(np.interp(np.log(value), np.log(xs), [np.mean(found[x]) for x in xs]))
