"""P1's objective: Huber of how far log L(N, D) misses the logarithm of each run's loss, for many laws at once.

Legend: S laws, M runs, P = 5 parameters (a, alpha, b, beta, e) with A = exp(a), B = exp(b), E = exp(e).
The logarithms of N and D are taken from their means, so that a and alpha do not move together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_nmm.scaling.law import Law

Array = NDArray[np.float64]

DELTA = 1e-3
"""P1 section 2.2: residuals of log L beyond it count linearly."""


@dataclass(frozen=True)
class Runs:
    """What the objective needs of a study's runs."""

    x_M: Array
    """log N, less its mean."""
    y_M: Array
    """log D, less its mean."""
    log_loss_M: Array
    centre: tuple[float, float]
    """The means taken off log N and log D."""

    def to_law(self, theta_P: Array) -> Law:
        """The law of one row of parameters."""
        a, alpha, b, beta, e = (float(value) for value in self.uncentred(theta_P))
        return Law(E=float(np.exp(e)), A=float(np.exp(a)), B=float(np.exp(b)), alpha=alpha, beta=beta)

    def from_law(self, law: Law) -> Array:
        """The parameters of a law [P]."""
        raw = np.array([np.log(law.A), law.alpha, np.log(law.B), law.beta, np.log(law.E)])
        return self.centred(raw)

    def uncentred(self, theta_SP: Array) -> Array:
        """The same laws with N in parameters and D in tokens [..., P]."""
        return theta_SP + np.stack([theta_SP[..., 1] * self.centre[0], *_shift(theta_SP, self.centre[1])], -1)

    def centred(self, raw_SP: Array) -> Array:
        """The inverse of ``uncentred`` [..., P]."""
        return raw_SP - np.stack([raw_SP[..., 1] * self.centre[0], *_shift(raw_SP, self.centre[1])], -1)


def _shift(theta_SP: Array, centre: float) -> tuple[Array, Array, Array, Array]:
    """What moves alpha (nothing), b, beta (nothing) and e (nothing)."""
    none = np.zeros_like(theta_SP[..., 1])
    return none, theta_SP[..., 3] * centre, none, none


def runs_of(
    parameters: Sequence[float] | Array, tokens: Sequence[float] | Array, losses: Sequence[float] | Array
) -> Runs:
    """N [M], D [M] and losses [M] as the objective takes them."""
    x, y = np.log(np.asarray(parameters, dtype=float)), np.log(np.asarray(tokens, dtype=float))
    centre = float(x.mean()), float(y.mean())
    return Runs(x - centre[0], y - centre[1], np.log(np.asarray(losses, dtype=float)), centre)


def residuals(theta_SP: Array, runs: Runs) -> tuple[Array, Array]:
    """log of the law less log of the loss [S, M], and the share of each term in the law [S, 3, M]."""
    terms = np.empty((theta_SP.shape[0], 3, runs.x_M.size))
    terms[:, 0] = theta_SP[:, 0:1] - theta_SP[:, 1:2] * runs.x_M
    terms[:, 1] = theta_SP[:, 2:3] - theta_SP[:, 3:4] * runs.y_M
    terms[:, 2] = theta_SP[:, 4:5]
    largest = terms.max(1)
    terms -= largest[:, None]
    np.exp(terms, out=terms)
    total = terms.sum(1)
    terms /= total[:, None]
    return np.log(total) + largest - runs.log_loss_M, terms


def jacobian(shares: Array, runs: Runs) -> Array:
    """d log L / d parameters [S, P, M] from the shares of the terms."""
    return np.stack(
        [shares[:, 0], -shares[:, 0] * runs.x_M, shares[:, 1], -shares[:, 1] * runs.y_M, shares[:, 2]], axis=1
    )


def huber(residual: Array) -> Array:
    """Elementwise, with ``DELTA``."""
    size = np.abs(residual)
    return np.where(size <= DELTA, 0.5 * size * size, DELTA * (size - 0.5 * DELTA))


def value_and_gradient(theta_P: Array, runs: Runs, counts_M: Array) -> tuple[float, Array]:
    """The objective of one law and its gradient [P], each run as often as ``counts_M`` says; scaled by 1 / DELTA^2.

    The scale keeps sums of squares of 1e-3 away from an optimiser's absolute tolerances.
    """
    residual, shares = residuals(theta_P[None], runs)
    slope = counts_M * np.clip(residual[0], -DELTA, DELTA) / DELTA**2
    value = float((counts_M * huber(residual[0])).sum() / DELTA**2)
    return value, np.asarray(jacobian(shares, runs)[0] @ slope)
