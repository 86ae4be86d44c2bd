"""The sparsity-aware law of Abnar et al. as P1 uses it (appendix C, Table 12), for studies with several sparsities.

L(N, D, S) = A / N^alpha + B / D^beta + C (1 - S)^lam + d (1 - S)^delta / N^gamma + E, with 1 - S the active share of
the experts. P1 prints the fourth term with N^gamma; only 1 / N^gamma falls with N as its d = 381,475 requires. The
logarithm of every term is a line in (log N, log D, log (1 - S)): P1's log-sum-exp and Huber objective takes five terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megatron_nmm.errors import ConfigError
from megatron_nmm.scaling.fit.objective import DELTA, Array, huber
from megatron_nmm.scaling.point import AVERAGE, Point

FEWEST_SPARSITIES = 3
"""C, lam and E are three unknowns of how loss depends on S alone."""
FEWEST_RUNS = 13
"""Ten coefficients and three runs to judge them."""
STARTS = 40
EXACT = 1e-4
"""An objective below it, in units of ``DELTA``^2 a run, cannot be a local one."""

NAMES = ("A", "alpha", "B", "beta", "C", "lam", "d", "delta", "gamma", "E")
USES = (
    {0: {0: 1.0}, 1: {1: -1.0}},
    {2: {0: 1.0}, 3: {2: -1.0}},
    {4: {0: 1.0}, 5: {3: 1.0}},
    {6: {0: 1.0}, 7: {3: 1.0}, 8: {1: -1.0}},
    {9: {0: 1.0}},
)
"""Of each term of the sum: parameter number -> {column of (1, log N, log D, log (1 - S)): factor}."""
LOGARITHMS = (0, 2, 4, 6, 9)
"""Parameters that stand for the logarithm of their coefficient."""


@dataclass(frozen=True)
class SparseLaw:
    """Ten coefficients; ``active_share`` is 1 - S, top_k / experts."""

    A: float
    alpha: float
    B: float
    beta: float
    C: float
    lam: float
    d: float
    delta: float
    gamma: float
    E: float

    def loss(self, parameters: float | Array, tokens: float | Array, active_share: float | Array) -> Array:
        """L(N, D, S) in nats, elementwise; N active parameters."""
        n, tokens, share = (np.asarray(value, dtype=float) for value in (parameters, tokens, active_share))
        return np.asarray(
            self.A * n**-self.alpha
            + self.B * tokens**-self.beta
            + self.C * share**self.lam
            + self.d * share**self.delta * n**-self.gamma
            + self.E
        )


def fit_sparse(points: Sequence[Point], kind: str = AVERAGE, seed: int = 0) -> SparseLaw:
    """The sparsity-aware law of runs with different experts / top_k; raises ConfigError where it cannot be told."""
    from scipy.optimize import minimize

    shares = {point.top_k / point.experts for point in points}
    if len(shares) < FEWEST_SPARSITIES or len(points) < FEWEST_RUNS:
        told = ", ".join(f"{share:.3g}" for share in sorted(shares))
        raise ConfigError(
            f"{len(points)} runs at {len(shares)} active shares of experts ({told}) cannot tell the ten coefficients "
            f"of the sparsity-aware law; train at least {FEWEST_RUNS} at {FEWEST_SPARSITIES}, or fit the plain law"
        )
    columns = _columns(points)
    log_loss = np.log([point.loss(kind) for point in points])
    random = np.random.default_rng(seed)
    best, least = np.zeros(len(NAMES)), np.inf
    for _ in range(STARTS):
        start = np.array([0, 0.3, 0, 0.3, -1, 0.2, 0, 0.2, 0.5, 0]) + 0.4 * random.standard_normal(len(NAMES))
        start[[0, 2, 4, 6]] += random.uniform(-4, 0, 4)
        found = minimize(
            _value_and_gradient,
            start,
            (columns, log_loss),
            method="L-BFGS-B",
            jac=True,
            options={"maxiter": 5_000, "maxfun": 10_000, "ftol": 1e-14, "gtol": 1e-10, "maxcor": 30},
        )
        if found.fun < least:
            best, least = found.x, float(found.fun)
        if least < EXACT * len(points):
            break
    return _uncentred(best, points)


def _columns(points: Sequence[Point]) -> Array:
    """1, log N and log D less their means, log (1 - S) [4, M]."""
    n, d, share = np.log([(point.active, point.tokens, point.top_k / point.experts) for point in points]).T
    return np.stack([np.ones_like(n), n - n.mean(), d - d.mean(), share])


def _value_and_gradient(theta: Array, columns: Array, log_loss: Array) -> tuple[float, Array]:
    terms = np.stack(
        [sum(theta[p] * f * columns[c] for p, uses in term.items() for c, f in uses.items()) for term in USES]
    )
    largest = terms.max(0)
    shares = np.exp(terms - largest)
    total = shares.sum(0)
    shares /= total
    residual = np.log(total) + largest - log_loss
    slope = np.clip(residual, -DELTA, DELTA) / DELTA**2
    gradient = np.zeros_like(theta)
    for share, term in zip(shares, USES, strict=True):
        for p, uses in term.items():
            gradient[p] = (slope * share * sum(f * columns[c] for c, f in uses.items())).sum()
    return float(huber(residual).sum() / DELTA**2), gradient


def _uncentred(theta: Array, points: Sequence[Point]) -> SparseLaw:
    n, d = np.log([(point.active, point.tokens) for point in points]).mean(0)
    raw = theta.copy()
    raw[0] += theta[1] * n
    raw[2] += theta[3] * d
    raw[6] += theta[8] * n
    raw[list(LOGARITHMS)] = np.exp(raw[list(LOGARITHMS)])
    return SparseLaw(**dict(zip(NAMES, map(float, raw), strict=True)))
