"""How well a law foretells runs, which runs stand out, and whether the runs tell its exponents at all."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from megatron_nmm.scaling.fit.minimise import HIGH, LOW, Minimum
from megatron_nmm.scaling.fit.objective import Array, Runs, value_and_gradient
from megatron_nmm.scaling.law import PARAMETERS, Interval, Law, Quality
from megatron_nmm.scaling.point import Point

OUTLYING = 5.0
"""Robust z beyond which a run is named. At 3.5, one in six studies of 12 to 24 normal runs would name one."""
FINEST = 1e-4
"""A spread of log L below it is no noise: losses are written with four or five digits."""
SAME_VALUE = 0.05
"""Sizes (or token counts) closer than this in their logarithm are one."""
WIDE = 1.0
"""An interval wider than this many times its value tells next to nothing."""
FEW_SIZES = 4
NO_FLOOR = 0.05
"""E below this part of the least loss plays no part."""
CHI_SQUARE = 3.84
"""95 % of chi square with one degree of freedom."""


def quality(law: Law, points: Sequence[Point], kind: str) -> Quality:
    """MSE and R2 of losses in nats, and the mean absolute error in percent of the loss (P1 Table 10)."""
    losses = np.array([point.loss(kind) for point in points])
    foretold = _foretold(law, points)
    spread = float(((losses - losses.mean()) ** 2).sum())
    squares = float(((losses - foretold) ** 2).sum())
    return Quality(
        mse=squares / len(points),
        r2=1.0 - squares / spread if spread > 0 else 0.0,
        mae_percent=float(100.0 * (np.abs(losses - foretold) / losses).mean()),
        points=len(points),
    )


def robust_z(law: Law, points: Sequence[Point], kind: str) -> Array:
    """Each run's log L less the law's, in robust deviations (1.4826 x median absolute residual) [M].

    The law goes nearly through as many runs as it has coefficients, so their residuals tell no spread.
    """
    losses = np.log([point.loss(kind) for point in points])
    residual = losses - np.log(_foretold(law, points))
    spread = float(np.median(np.sort(np.abs(residual))[min(len(PARAMETERS), len(residual) - 1) :]))
    return np.asarray(residual / max(1.4826 * spread, FINEST))


def outliers(law: Law, points: Sequence[Point], kind: str) -> tuple[str, ...]:
    """Runs that stand far out, each with its robust z."""
    z = robust_z(law, points, kind)
    return tuple(f"{point.run} (z {one:+.1f})" for point, one in zip(points, z, strict=True) if abs(one) > OUTLYING)


def _foretold(law: Law, points: Sequence[Point]) -> Array:
    n, d = np.array([(point.active, point.tokens) for point in points]).T
    return np.asarray(law.loss(n, d))


def groups(values: Sequence[float] | Array) -> Array:
    """A number for each value [M], equal where values are the same size or token count."""
    logs = np.log(np.asarray(values, dtype=float))
    order = np.argsort(logs)
    steps = np.concatenate([[0], np.cumsum(np.diff(logs[order]) > SAME_VALUE)])
    out = np.empty(len(logs))
    out[order] = steps
    return out


def warnings(
    law: Law, runs: Runs, minimum: Minimum, intervals: Mapping[str, Interval], points: Sequence[Point]
) -> Iterator[str]:
    """What a reader must know before trusting the law."""
    for name, values, position in (
        ("alpha", [point.active for point in points], 1),
        ("beta", [point.tokens for point in points], 3),
    ):
        what = "sizes" if name == "alpha" else "token counts"
        there = len(np.unique(groups(values)))
        if there < FEW_SIZES:
            yield f"{name} rests on {there} {what}, as many as it has to be told from; train at least {FEW_SIZES}"
        if reason := _not_identified(name, float(getattr(law, name)), intervals.get(name)):
            yield f"{name} is not identified: {reason}; train more {what}, further apart, or more runs of each"
        elif flat(runs, minimum, position):
            yield (
                f"{name} is not identified: half or one and a half times {getattr(law, name):.3g} fits the runs nearly "
                f"as well (flat profile); train more {what}, further apart"
            )
    least = float(np.exp(runs.log_loss_M.min()))
    lowest = intervals["E"].low if "E" in intervals else law.E
    if min(law.E, lowest) / least < NO_FLOOR:
        yield (
            f"E is not identified: it is {law.E:.3g}, and as low as {lowest:.3g} in resamples, beside a least loss of "
            f"{least:.3g}; alpha and beta lean on it; train longer and larger, or more runs of each"
        )
    for name in ("alpha", "beta"):
        if not 1.01 * LOW < getattr(law, name) < 0.99 * HIGH:
            yield f"{name} = {getattr(law, name):.3g} ran into the end of its range: look at the outliers and the data"


def _not_identified(name: str, value: float, interval: Interval | None) -> str:
    if interval is None:
        return ""
    told = f"95 % interval {interval.low:.3g} to {interval.high:.3g} around {value:.3g}"
    return told if interval.low <= 0 or interval.high - interval.low > WIDE * abs(value) else ""


def flat(runs: Runs, minimum: Minimum, position: int) -> bool:
    """Whether the objective hardly rises with one exponent (1 alpha, 3 beta) held at half or 1.5 times its optimum.

    The ratio of objectives is a likelihood ratio under Laplace noise of unknown scale, 2 M log(held / free).
    """
    from scipy.optimize import minimize

    counts = np.ones(runs.x_M.size)
    if minimum.value < 1e-6 * counts.size:  # exact data: any other exponent is infinitely worse
        return False
    for factor in (0.5, 1.5):
        start = minimum.theta_P.copy()
        start[position] *= factor
        bounds = [(None, None)] * start.size
        bounds[position] = (start[position], start[position])
        held = minimize(value_and_gradient, start, (runs, counts), method="L-BFGS-B", jac=True, bounds=bounds).fun
        if 2.0 * counts.size * np.log(held / minimum.value) < CHI_SQUARE:
            return True
    return False
