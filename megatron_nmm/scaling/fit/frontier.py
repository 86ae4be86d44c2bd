"""The least loss any model of a study reaches for a budget: lower hull of all curves, and the power law L = k C^c."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from megatron_nmm.scaling.fit.objective import Array
from megatron_nmm.scaling.fit.quality import groups
from megatron_nmm.scaling.law import Law
from megatron_nmm.scaling.point import Point

BETWEEN = 20
"""Interpolated points between two runs of a size, equally spaced in log C."""
SPACED = 200
"""Budgets the power law is fitted to, equally spaced in C as in P1."""
CHEAP = 0.25
"""Part of the range of log C whose runs are left out: where P1's 3e19 stands between 4e18 and 1.2e22."""


@dataclass(frozen=True)
class PowerLaw:
    """L = scale C^slope between two budgets, and the hull it was fitted to."""

    scale: float
    slope: float
    slope_error: float
    """Standard error of the regression."""
    above: float
    """FLOPs at and below which runs are left out."""
    hull: tuple[tuple[float, float], ...]
    """(C, loss), ascending."""

    def loss(self, flops: float) -> float:
        """In nats."""
        return float(self.scale * flops**self.slope)


def frontier(points: Sequence[Point], kind: str, above: float | None = None) -> PowerLaw | None:
    """P1 appendix C: interpolate each size's curve, lower convex hull over log C, regression of log L on log C.

    ``above``: leave out C up to here; None leaves out the cheapest ``CHEAP`` of the study's range. None when fewer
    than two runs are left.
    """
    from scipy.stats import linregress

    cost = np.array([point.flops for point in points])
    losses = np.array([point.loss(kind) for point in points])
    if above is None:
        low, high = np.log(cost.min()), np.log(cost.max())
        above = float(np.exp(low + CHEAP * (high - low)))
    x, y = _curves(np.log(cost), np.log(losses), groups([point.active for point in points]))
    kept = x > np.log(above)
    if kept.sum() < 2:
        return None
    hull_x, hull_y = lower_hull(x[kept], y[kept])
    if hull_x.size < 2:
        return None
    spaced = np.log(np.linspace(np.exp(hull_x[0]), np.exp(hull_x[-1]), SPACED))
    line = linregress(spaced, np.interp(spaced, hull_x, hull_y))
    hull = tuple((float(np.exp(c)), float(np.exp(loss))) for c, loss in zip(hull_x, hull_y, strict=True))
    return PowerLaw(float(np.exp(line.intercept)), float(line.slope), float(line.stderr), above, hull)


def least_losses(law: Law, low: float, high: float) -> tuple[float, float]:
    """(k, c) of L = k C^c through the law's least losses from ``low`` to ``high`` FLOPs, spaced as in ``frontier``."""
    from scipy.stats import linregress

    budgets = np.linspace(low, high, SPACED)
    line = linregress(np.log(budgets), np.log(law.loss(*law.optimum(budgets))))
    return float(np.exp(line.intercept)), float(line.slope)


def _curves(log_c: Array, log_loss: Array, size: Array) -> tuple[Array, Array]:
    """Every size's runs with ``BETWEEN`` points between neighbours; of runs of equal cost the mean."""
    xs, ys = [], []
    for one in np.unique(size):
        c = np.unique(log_c[size == one])
        loss = np.array([log_loss[(size == one) & (log_c == value)].mean() for value in c])
        fine = [np.linspace(low, high, BETWEEN, endpoint=False) for low, high in pairwise(c)]
        x = np.concatenate([*fine, c[-1:]])
        xs.append(x)
        ys.append(np.interp(x, c, loss))
    return np.concatenate(xs), np.concatenate(ys)


def lower_hull(x: Array, y: Array) -> tuple[Array, Array]:
    """Corners of the lower convex hull, x ascending, up to the lowest point: beyond it more budget bought nothing."""
    order = np.lexsort((y, x))
    corners: list[tuple[float, float]] = []
    for point in zip(x[order].tolist(), y[order].tolist(), strict=True):
        if corners and corners[-1][0] == point[0]:
            continue
        while len(corners) > 1 and _not_below(corners[-2], corners[-1], point):
            corners.pop()
        corners.append(point)
    end = int(np.argmin([loss for _, loss in corners])) + 1
    hull_x, hull_y = np.array(corners[:end]).T
    return hull_x, hull_y


def _not_below(left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether the middle point lies on or above the line from left to right."""
    rise = (middle[0] - left[0]) * (right[1] - left[1]) - (middle[1] - left[1]) * (right[0] - left[0])
    return rise <= 0
