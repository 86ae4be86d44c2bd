"""The best law for a study's runs: all of P1's 1,764 starts go downhill together, the best ones on with L-BFGS.

Each step of the first pass is a damped Gauss-Newton step (Levenberg-Marquardt, Huber as weights) of all S starts in a
few array operations. It ranks the valleys; ``scipy.optimize`` walks the best of them to the bottom with the analytic
gradient. 1,764 single runs of scipy find the same optimum in minutes: tests/scaling/test_minimise.py compares them.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from megatron_nmm.scaling.fit.objective import DELTA, Array, Runs, huber, jacobian, residuals, value_and_gradient

ALPHAS = (0.0, 0.5, 2.5)
LOG_FACTORS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
LOG_FLOORS = (-1.0, -0.5, 0.5, 1.0)
"""P1 section 2.2: starts of alpha and beta, of a and b, and of e."""

LOW, HIGH = 1e-3, 4.0
"""Range of alpha and beta. Without one, a few bad runs make an exponent negative, and the law rises for ever."""

STEPS = 60
"""Of the first pass; valleys are told apart long before."""
EXPONENTS = [1, 3]
"""Places of alpha and beta among the parameters."""
POLISHED = 6
"""Distinct optima that L-BFGS goes on from."""
SAME = 0.1
"""Optima whose residuals differ by less than this part of ``DELTA`` on every run are one."""


@dataclass(frozen=True)
class Minimum:
    """Where the objective is least."""

    theta_P: Array
    value: float
    """Of the objective, in units of DELTA^2."""
    others_SP: Array
    """The best distinct optima, this one first: where resamples start."""


def starts(runs: Runs) -> Array:
    """P1's grid [1764, P]."""
    grid = itertools.product(LOG_FACTORS, ALPHAS, LOG_FACTORS, ALPHAS, LOG_FLOORS)
    return runs.centred(np.array(list(grid)))


def minimise(runs: Runs) -> Minimum:
    """The least objective over all starts."""
    counts = np.ones(runs.x_M.size)
    theta, values = descend(starts(runs), runs, counts[None])
    best = _distinct(theta, values, runs)
    polished = [polish(one, runs, counts) for one in best]
    order = np.argsort([value for _, value in polished])
    found = np.stack([polished[index][0] for index in order])
    return Minimum(found[0], polished[order[0]][1], found)


def descend(theta_SP: Array, runs: Runs, counts_SM: Array, steps: int = STEPS) -> tuple[Array, Array]:
    """Every start after ``steps`` damped Gauss-Newton steps [S, P], and the objective there [S].

    ``counts_SM`` (or [1, M]): how often each run counts.
    """
    theta = theta_SP.copy()
    damping = np.full(len(theta), 1e-2)
    residual, shares = residuals(theta, runs)
    value = _objective(residual, counts_SM)
    for _ in range(steps):
        step = _step(residual, shares, runs, counts_SM, damping)
        proposed = theta + step
        proposed[:, EXPONENTS] = np.clip(proposed[:, EXPONENTS], LOW, HIGH)
        new_residual, new_shares = residuals(proposed, runs)
        new_value = _objective(new_residual, counts_SM)
        better = new_value < value  # false for nan as well
        theta[better] = proposed[better]
        value[better] = new_value[better]
        residual[better], shares[better] = new_residual[better], new_shares[better]
        damping = np.clip(np.where(better, damping / 4, damping * 6), 1e-9, 1e9)
    return theta, value


def _objective(residual_SM: Array, counts_SM: Array) -> Array:
    return np.asarray((counts_SM * huber(residual_SM)).sum(1) / DELTA**2)


def _step(residual_SM: Array, shares: Array, runs: Runs, counts_SM: Array, damping_S: Array) -> Array:
    """Gauss-Newton step [S, P] of the weighted squares that touch Huber where the laws are."""
    weights = counts_SM / np.maximum(np.abs(residual_SM) / DELTA, 1.0)
    jacobian_SPM = jacobian(shares, runs)
    weighted = jacobian_SPM * weights[:, None]
    normal = weighted @ jacobian_SPM.transpose(0, 2, 1)
    gradient = (weighted @ residual_SM[..., None])[..., 0]
    diagonal = np.einsum("spp->sp", normal)
    # A term that has died out has a zero row; the floor keeps the matrix regular and the parameter where it is.
    diagonal += damping_S[:, None] * (diagonal + 1e-9) + 1e-12
    step = -np.linalg.solve(normal, gradient[..., None])[..., 0]
    return np.clip(step, -5.0, 5.0)


def polish(theta_P: Array, runs: Runs, counts_M: Array) -> tuple[Array, float]:
    """(parameters, objective) at the bottom of the valley, by scipy's L-BFGS-B."""
    from scipy.optimize import minimize

    bounds = [(LOW, HIGH) if place in EXPONENTS else (None, None) for place in range(theta_P.size)]
    found, value = theta_P, np.inf
    for _ in range(3):  # a fresh start forgets curvature that the kinks of Huber made useless
        result = minimize(
            value_and_gradient,
            found,
            (runs, counts_M),
            method="L-BFGS-B",
            jac=True,
            bounds=bounds,
            options={"maxiter": 2_000, "maxfun": 4_000, "ftol": 1e-14, "gtol": 1e-9, "maxcor": 20},
        )
        found, gain, value = result.x, value - result.fun, float(result.fun)
        if gain < 1e-9 * (1 + value):
            break
    return found, value


def _distinct(theta_SP: Array, values_S: Array, runs: Runs) -> list[Array]:
    """The best optima that foretell different losses, best first."""
    found: list[Array] = []
    seen: list[Array] = []
    for index in np.argsort(values_S):
        residual = residuals(theta_SP[index][None], runs)[0][0]
        if all(np.abs(residual - other).max() > SAME * DELTA for other in seen):
            found.append(theta_SP[index])
            seen.append(residual)
        if len(found) == POLISHED:
            break
    return found
