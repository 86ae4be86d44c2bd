"""How the best N and D grow with the budget, two ways: from the law's formula, and by sweeping D as P1 does.

N ~ C^a, D ~ C^b, D ~ N^d. The closed form holds for C = 6 N D. The sweep (P1 appendix C) asks the law for its best D at
each budget and fits lines to the answers; with an encoder it counts C = 6 (Nv Dv + Nt D), Nv linear in N.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megatron_nmm.scaling.fit.objective import Array
from megatron_nmm.scaling.law import Law

BUDGETS = 40
"""Of a sweep, equally spaced in log C."""
STEPS = 20_000
"""Values of D, equally spaced as in P1."""
P1_SWEEP = (10e9, 600e9)
"""P1 appendix C: D from 10B to 600B tokens."""


@dataclass(frozen=True)
class Encoder:
    """What an encoder adds to a run's cost: Nv = slope N + intercept, met by ``share`` of the tokens."""

    slope: float = 0.0
    intercept: float = 0.0
    share: float = 0.0

    def parameters(self, flops: float, tokens_K: Array, kept: float | None = None) -> Array:
        """N [K] that ``flops`` train on ``tokens_K``: N = C / 6D + (1 - share) Nv(N), solved for N; Nv is not below 0.

        ``kept`` replaces 1 - share, for P1's printed factor.
        """
        kept = (1.0 - self.share if kept is None else kept) if self.slope or self.intercept else 0.0
        met_K = flops / (6.0 * tokens_K)
        n_K = (met_K + kept * self.intercept) / (1.0 - kept * self.slope)
        return np.where(self.slope * n_K + self.intercept > 0, n_K, met_K)


@dataclass(frozen=True)
class Exponents:
    """a, b and d, and of a sweep what they rest on."""

    a: float
    b: float
    d: float
    budgets: int = 0
    at_an_end: int = 0
    """Budgets left out: their best D was the first or last of the sweep."""


def closed_form(alpha: float, beta: float) -> Exponents:
    """P1 section 2.2: a = beta / (alpha + beta), b = alpha / (alpha + beta), d = alpha / beta."""
    return Exponents(beta / (alpha + beta), alpha / (alpha + beta), alpha / beta)


def sweep(
    law: Law,
    flops: tuple[float, float],
    encoder: Encoder | None = None,
    tokens: tuple[float, float] | None = None,
    kept: float | None = None,
) -> Exponents | None:
    """Exponents by regression over budgets from ``flops[0]`` to ``flops[1]``; None when none has an optimum inside.

    ``tokens`` is the range of D; without it, wide enough for every budget.
    """
    from scipy.stats import linregress

    encoder = encoder or Encoder()
    budgets = np.geomspace(*flops, BUDGETS)
    low, high = tokens or _range(law, budgets)
    tokens_K = np.linspace(low, high, STEPS)
    found = []
    for budget in budgets:
        n_K = encoder.parameters(float(budget), tokens_K, kept)
        best = int(np.argmin(law.loss(n_K, tokens_K)))
        if 0 < best < STEPS - 1:
            found.append((np.log(budget), np.log(n_K[best]), np.log(tokens_K[best])))
    if len(found) < 3:
        return None
    log_c, log_n, log_d = np.array(found).T
    return Exponents(
        a=float(linregress(log_c, log_n).slope),
        b=float(linregress(log_c, log_d).slope),
        d=float(linregress(log_n, log_d).slope),
        budgets=len(found),
        at_an_end=BUDGETS - len(found),
    )


def _range(law: Law, budgets: Array) -> tuple[float, float]:
    _, best = law.optimum(budgets)
    return 0.2 * float(best.min()), 3.0 * float(best.max())


def encoder_of(active: Sequence[float], vision: Sequence[float], share: float) -> Encoder:
    """Nv as a line in N over a study's models; no encoder where none has one."""
    from scipy.stats import linregress

    if not any(vision):
        return Encoder()
    n, nv = np.array(sorted({*zip(active, vision, strict=True)})).T
    if len(set(n)) < 2:
        return Encoder(float(nv[0] / n[0]), 0.0, share)
    line = linregress(n, nv)
    return Encoder(float(line.slope), float(line.intercept), share)


def difference(formula: Exponents, swept: Exponents | None, encoder: Encoder) -> str:
    """One sentence: why the two ways differ."""
    if swept is None:
        return "no budget of the study has its best D inside the sweep, so only the closed form is told"
    gap = swept.a - formula.a
    left_out = f"; {swept.at_an_end} budgets with their best D at an end are left out" if swept.at_an_end else ""
    if encoder.slope or encoder.intercept:
        return (
            f"by regression a is {gap:+.4f} off the closed form, which knows C = 6 N D only: an encoder's parameters "
            f"meet {encoder.share:.0%} of the tokens and Nv = {encoder.slope:.3g} N {encoder.intercept:+.3g}, so N "
            f"grows otherwise than C / D (a + b = {swept.a + swept.b:.3f}){left_out}"
        )
    return (
        f"by regression a is {gap:+.4f} off the closed form: both ask the same law, and the sweep adds only its steps "
        f"of D{left_out}"
    )
