"""Fit a study: the law, how certain it is, what it foretells, and what a reader must be told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megatron_nmm.errors import ConfigError
from megatron_nmm.scaling.fit.bootstrap import FEWEST_VALUES, Bootstrap, bootstrap
from megatron_nmm.scaling.fit.exponents import Encoder, Exponents, closed_form, difference, encoder_of, sweep
from megatron_nmm.scaling.fit.frontier import PowerLaw, frontier, least_losses
from megatron_nmm.scaling.fit.minimise import Minimum, minimise
from megatron_nmm.scaling.fit.objective import Runs, runs_of
from megatron_nmm.scaling.fit.quality import groups, outliers, quality, warnings
from megatron_nmm.scaling.law import PARAMETERS, Fitted, Law, Quality
from megatron_nmm.scaling.point import AVERAGE, Point

FEWEST_RUNS = 8
"""Five coefficients, and three runs to tell whether they fit."""
RESAMPLES = 100
"""P1 appendix C."""

RANGES = {"parameters": "active", "tokens": "tokens", "flops": "flops"}
"""Fitted.ranges -> field of a point."""

Progress = Callable[[str, int, int], None]
"""Told (stage, done, of how many)."""


@dataclass(frozen=True)
class Report:
    """A fit and what else there is to show of it."""

    fitted: Fitted
    frontier: PowerLaw | None
    difference: str
    """Why the exponents of the two ways differ."""
    swept: Exponents | None


def check(points: Sequence[Point]) -> None:
    """Raises ConfigError, all reasons at once, when no law can be told from the runs.

    Three sizes are the least: A, alpha and the floor E are three unknowns of how loss falls with N; so for D.
    """
    found = []
    if len(points) < FEWEST_RUNS:
        found.append(f"{len(points)} runs are too few for five coefficients; train at least {FEWEST_RUNS}")
    for what, unknowns, values in (
        ("size", "A, alpha", [point.active for point in points]),
        ("token count", "B, beta", [point.tokens for point in points]),
    ):
        there = len(np.unique(groups(values))) if values else 0
        if there < FEWEST_VALUES:
            found.append(
                f"{there} {what}{'' if there == 1 else 's'} cannot tell {unknowns} and E apart; train at least "
                f"{FEWEST_VALUES}, better 5, spread over a factor of 10"
            )
    if found:
        raise ConfigError("; ".join(found))


def fit(
    points: Sequence[Point],
    kind: str = AVERAGE,
    *,
    keep_back: int = 1,
    resamples: int = RESAMPLES,
    seed: int = 0,
    above: float | None = None,
    tell: Progress | None = None,
) -> Report:
    """The law of runs of one family and mixture, as ``manifest.select`` gives them; ConfigError when they are too few.

    ``keep_back``: so many of the largest sizes are foretold by a second fit without them; the law itself has all runs.
    ``above``: the frontier leaves out cheaper runs (``frontier.frontier``).
    """
    check(points)
    tell = tell or (lambda *_: None)
    tell("fit", 0, 1)
    runs, minimum = _minimum(points, kind)
    law = runs.to_law(minimum.theta_P)
    tell("fit", 1, 1)
    held_out = _held_out(points, kind, keep_back)
    sizes, lengths = groups([point.active for point in points]), groups([point.tokens for point in points])
    told = bootstrap(runs, minimum, (sizes, lengths), resamples, seed, lambda *done: tell("bootstrap", *done))
    intervals = told.intervals()
    encoder = _encoder(points)
    formula = closed_form(law.alpha, law.beta)
    cost = [point.flops for point in points]
    swept = sweep(law, (min(cost), max(cost)), encoder)
    hull = frontier(points, kind, above)
    first = points[0]
    fitted = Fitted(
        law=law,
        study=first.study,
        family=first.family,
        kind=kind,
        mixture=first.mixture,
        quality=quality(law, points, kind),
        held_out=held_out,
        intervals=intervals,
        exponents=_exponents(law, formula, swept, hull),
        vision_share=_share(points),
        encoder=(encoder.slope, encoder.intercept),
        warnings=tuple(warnings(law, runs, minimum, intervals, points)),
        outliers=outliers(law, points, kind),
        runs=tuple(point.run for point in points),
        **_for_plans(points, told),
    )
    return Report(fitted, hull, difference(formula, swept, encoder), swept)


def _minimum(points: Sequence[Point], kind: str) -> tuple[Runs, Minimum]:
    runs = runs_of(
        [point.active for point in points], [point.tokens for point in points], [point.loss(kind) for point in points]
    )
    return runs, minimise(runs)


def _held_out(points: Sequence[Point], kind: str, keep_back: int) -> Quality | None:
    """Of the ``keep_back`` largest sizes, or None where the smaller ones cannot be fitted alone."""
    sizes = groups([point.active for point in points])
    border = sizes.max() - keep_back
    kept = [point for point, size in zip(points, sizes, strict=True) if size <= border]
    back = [point for point, size in zip(points, sizes, strict=True) if size > border]
    try:
        check(kept)
    except ConfigError:
        return None
    if not back:
        return None
    runs, minimum = _minimum(kept, kind)
    return quality(runs.to_law(minimum.theta_P), back, kind)


def _share(points: Sequence[Point]) -> float:
    return float(sum(point.vision_tokens for point in points) / sum(point.tokens for point in points))


def _for_plans(points: Sequence[Point], told: Bootstrap) -> dict[str, Any]:
    """The fields of ``Fitted`` that a plan needs: laws of the resamples, ranges, all parameters as a line in N."""
    columns = {name: [float(getattr(point, field)) for point in points] for name, field in RANGES.items()}
    line = np.polyfit(columns["parameters"], [point.total for point in points], 1)
    return {
        "samples": tuple(map(Law, *(told.values[name].tolist() for name in PARAMETERS))),
        "ranges": {name: (min(values), max(values)) for name, values in columns.items()},
        "total": (float(line[0]), float(line[1])),
    }


def _encoder(points: Sequence[Point]) -> Encoder:
    return encoder_of([point.active for point in points], [point.vision for point in points], _share(points))


def _exponents(
    law: Law, formula: Exponents, swept: Exponents | None, hull: PowerLaw | None
) -> dict[str, dict[str, float]]:
    out = {"closed form": {"a": formula.a, "b": formula.b, "d": formula.d}, "regression": {}}
    if swept:
        out["regression"] = {"a": swept.a, "b": swept.b, "d": swept.d}
    if hull:
        out["regression"] |= {"k": hull.scale, "c": hull.slope}
        k, c = least_losses(law, hull.hull[0][0], hull.hull[-1][0])
        out["closed form"] |= {"k": k, "c": c}
    return out
