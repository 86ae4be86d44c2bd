"""Early against late fusion and sparse experts: the loss at equal FLOPs, and at equal size on equal data."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from megatron_nmm.scaling.law import Fitted, Law
from megatron_nmm.scaling.plan.optimum import Array, Cost, losses
from megatron_nmm.scaling.point import Point
from megatron_nmm.scaling.report.plots import style
from megatron_nmm.scaling.report.plots.frontier import hull_of
from megatron_nmm.scaling.report.study import Study, by_size, loss_at
from megatron_nmm.scaling.words import amount, family

NAME = "families"
TITLE = "Fusion and experts"
STEPS = 40
SIZES = 100
"""Tried for each budget."""
BAND = 0.18
"""Opacity of an interval."""


def draw(study: Study) -> Any:
    """The figure. None where there are fewer than two families."""
    fits = study.headline()
    if len(fits) < 2:
        return None
    figure, (budgets, sizes) = style.panels(2, size=(5.6, 4.2), sharey=False)
    for fitted in fits:
        _at_flops(budgets, study, fitted)
    tokens = _common_tokens(study)
    for fitted in fits:
        _at_size(sizes, study, fitted, tokens)
    _finish(budgets, "training FLOPs, C", "lowest loss of each budget")
    _finish(sizes, "parameters a token meets, N", f"loss at equal size on {amount(tokens)} tokens")
    every = [point.active for fitted in fits for point in study.points_of(fitted)]
    style.log_amounts(sizes.xaxis, min(every) / 1.2, max(every) * 1.2)
    budgets.set_ylabel("held-out loss (nats per token)")
    return figure


def _common_tokens(study: Study) -> float:
    """A number of tokens inside the range of every family, in the middle of it in logarithms."""
    ranges = [[point.tokens for point in study.points_of(fitted)] for fitted in study.headline()]
    low, high = max(min(one) for one in ranges), min(max(one) for one in ranges)
    return float(np.sqrt(low * high))


def _at_flops(axes: Any, study: Study, fitted: Fitted) -> None:
    """The law's best loss within the study's sizes and tokens, with its interval, and the runs of the lower hull."""
    colour, marker = style.FAMILIES[fitted.family]
    points = study.points_of(fitted)
    flops = np.geomspace(min(p.flops for p in points), max(p.flops for p in points), STEPS)
    axes.plot(flops, [least([fitted.law], fitted, points, c)[0] for c in flops], color=colour)
    if fitted.samples:
        band = [np.percentile(least(fitted.samples, fitted, points, c), (2.5, 97.5)) for c in flops]
        axes.fill_between(flops, *zip(*band, strict=True), color=colour, alpha=BAND, linewidth=0)
    hull = hull_of(points, fitted.kind)
    axes.plot(*zip(*hull, strict=True), marker, color=colour, ms=6, label=family(fitted.family))


def least(laws: Sequence[Law], fitted: Fitted, points: Sequence[Point], flops: float) -> Array:
    """Of each law, the lowest loss that ``flops`` buy with N and D between those of the runs."""
    n = np.geomspace(min(p.active for p in points), max(p.active for p in points), SIZES)
    tokens = flops / Cost.of(fitted).flops(n)
    low, high = min(p.tokens for p in points), max(p.tokens for p in points)
    # A budget at the end of the range is paid by one run alone; its size lies between two of the grid.
    inside = (tokens >= low * 0.95) & (tokens <= high * 1.05)
    found = [losses(laws, float(a), float(b)) for a, b in zip(n[inside], tokens[inside], strict=True)]
    return np.asarray(np.stack(found).min(axis=0), dtype=float)


def _at_size(axes: Any, study: Study, fitted: Fitted, tokens: float) -> None:
    """The law along N at ``tokens``, and each size's loss there, between two of its runs."""
    colour, marker = style.FAMILIES[fitted.family]
    points = study.points_of(fitted)
    n = np.geomspace(min(p.active for p in points), max(p.active for p in points), STEPS)
    axes.plot(n, fitted.law.loss(n, tokens), color=colour)
    if fitted.samples:
        band = [np.percentile(losses(fitted.samples, float(one), tokens), (2.5, 97.5)) for one in n]
        axes.fill_between(n, *zip(*band, strict=True), color=colour, alpha=BAND, linewidth=0)
    found = [(runs[0].active, loss_at(runs, fitted.kind, "tokens", tokens)) for runs in by_size(points).values()]
    measured = [pair for pair in found if pair[1] is not None]
    axes.plot(*zip(*measured, strict=True), marker, color=colour, ms=6, label=family(fitted.family))


def _finish(axes: Any, label: str, title: str) -> None:
    axes.set(xscale="log", xlabel=label)
    axes.set_title(title)
    axes.legend(loc="upper right")
    style.grid(axes)
