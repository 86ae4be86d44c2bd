"""The law all studies fit: ``L(N, D) = E + A / N^alpha + B / D^beta`` (P1 section 2.2)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = float | NDArray[np.float64]

PARAMETERS = ("E", "A", "B", "alpha", "beta")


@dataclass(frozen=True)
class Law:
    """Five coefficients; N in parameters, D in tokens, losses in nats."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: Values, tokens: Values) -> Any:
        """L(N, D), elementwise."""
        n, d = np.asarray(parameters, dtype=float), np.asarray(tokens, dtype=float)
        return self.E + self.A * n**-self.alpha + self.B * d**-self.beta

    def optimum(self, flops: Values) -> tuple[Any, Any]:
        """(N, D) of the least loss at ``flops = 6 N D``, elementwise (P1 appendix C, closed form)."""
        product = np.asarray(flops, dtype=float) / 6.0
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1.0 / (self.alpha + self.beta))
        n = ratio * product ** (self.beta / (self.alpha + self.beta))
        return n, product / n


@dataclass(frozen=True)
class Interval:
    """A value's 95 % bootstrap interval and standard deviation."""

    low: float
    high: float
    deviation: float


@dataclass(frozen=True)
class Quality:
    """How well a law foretells losses; P1's Table 10."""

    mse: float
    r2: float
    mae_percent: float
    points: int


@dataclass(frozen=True)
class Fitted:
    """A law as a study gave it, with what is known about its certainty."""

    law: Law
    study: str
    family: str
    kind: str
    """Which loss: a kind of data, or "avg"."""
    mixture: str
    quality: Quality
    """On the points it was fitted to."""
    held_out: Quality | None = None
    """How well the largest models are foretold by the same fit without them."""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """By coefficient, and by exponent "a", "b", "d" in closed form."""
    exponents: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By way ("regression", "closed form"): N ~ C^a, D ~ C^b, D ~ N^d, L = k C^c; what runs do not tell is not there.

    The regression's k and c are the lower hull's of the runs, the closed form's those of the law's least losses.
    """
    vision_share: float = 0.0
    """Dv / D of the study."""
    encoder: tuple[float, float] = (0.0, 0.0)
    """Nv = slope N + intercept over the study's models; zeros without an encoder."""
    warnings: tuple[str, ...] = ()
    outliers: tuple[str, ...] = ()
    """Runs whose residual stands far out."""
    runs: tuple[str, ...] = ()
    """The runs it was fitted to."""
    samples: tuple[Law, ...] = ()
    """The laws of bootstrap resamples: intervals of whatever follows from the coefficients jointly come from these."""
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Least and largest "parameters", "tokens" and "flops" of the runs; beyond them a law extrapolates."""
    total: tuple[float, float] = (1.0, 0.0)
    """All parameters = slope N + intercept over the study's models: more than N with experts."""

    @property
    def outlying(self) -> tuple[str, ...]:
        """Names of the outliers, without what is said of them."""
        return tuple(text.rsplit(" (z ", 1)[0] for text in self.outliers)
