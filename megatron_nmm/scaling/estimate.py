"""A number with what is known of its certainty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BOUNDS = (2.5, 97.5)
"""Percentiles that bound a 95 % interval."""
FEWEST = 20
"""Fewer draws than this have no such percentiles."""


@dataclass(frozen=True)
class Estimate:
    """A value, with its 95 % interval where one is known."""

    value: float
    low: float | None = None
    high: float | None = None

    @staticmethod
    def of(value: float, draws: Sequence[float] | NDArray[np.float64]) -> "Estimate":
        """``value`` with the interval of ``draws``; without one where they are few.

        The interval is widened to hold ``value``, which a skewed resampling may leave out.
        """
        found = np.asarray(draws, dtype=float)
        found = found[np.isfinite(found)]
        if len(found) < FEWEST:
            return Estimate(value)
        low, high = np.percentile(found, BOUNDS)
        return Estimate(value, min(float(low), value), max(float(high), value))

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None and self.high is not None
