"""Loss against model size at equal FLOPs: what was measured, the law's curves, and where each is lowest."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from megatron_nmm.scaling.law import Fitted
from megatron_nmm.scaling.plan.optimum import Array, Cost, of_flops
from megatron_nmm.scaling.point import AVERAGE, Point
from megatron_nmm.scaling.report.plots import style
from megatron_nmm.scaling.report.study import Study, by_size, loss_at
from megatron_nmm.scaling.words import family, power

NAME = "isoflop"
TITLE = "Loss at equal FLOPs"
CURVES = 5
"""Budgets to draw."""
ROOM = 1.6
"""Curves go on by this factor beyond the sizes and tokens of the runs."""
APART = 0.07
"""Of the height of a panel: the least between two labels."""
FEWEST = 3
"""Sizes that must have been measured at a budget."""


def draw(study: Study) -> Any:
    """The figure: a panel a family. None where no family has ``FEWEST`` sizes at any budget."""
    shown = [(fitted, study.points_of(fitted)) for fitted in study.headline()]
    shown = [(fitted, points) for fitted, points in shown if budgets(points, fitted.kind)]
    if not shown:
        return None
    figure, axes = style.panels(len(shown), size=(4.6, 4.1), sharey=True)
    ends = [_panel(panel, fitted, points) for panel, (fitted, points) in zip(axes, shown, strict=True)]
    for panel, found in zip(axes, ends, strict=True):
        _budget_labels(panel, found)
    _key(figure)
    axes[0].set_ylabel(f"held-out loss, {_kind(shown[0][0].kind)} (nats)")
    return figure


def _kind(name: str) -> str:
    return "mean over kinds" if name == AVERAGE else name


def budgets(points: Sequence[Point], kind: str) -> list[float]:
    """At most ``CURVES`` budgets, evenly apart, at which ``FEWEST`` sizes were measured."""
    sizes = by_size(points)
    if len(sizes) < FEWEST:
        return []
    every = np.geomspace(min(p.flops for p in points), max(p.flops for p in points), 200)
    enough = [c for c in every if sum(loss_at(runs, kind, "flops", c) is not None for runs in sizes.values()) >= FEWEST]
    if not enough:
        return []
    return [float(c) for c in np.geomspace(enough[0], enough[-1], CURVES + 2)[1:-1]]


def _panel(axes: Any, fitted: Fitted, points: Sequence[Point]) -> list[tuple[float, float, Any]]:
    """Curves of one family, smallest budget dark; (FLOPs, loss at its end, colour) of each."""
    cost, sizes = Cost.of(fitted), by_size(points)
    chosen = budgets(points, fitted.kind)
    low, high = min(p.active for p in points) / ROOM, max(p.active for p in points) * ROOM
    path, ends = [], []
    for flops, colour in zip(chosen, style.shades(len(chosen)), strict=True):
        n = _near_runs(np.geomspace(low, high, 200), cost, flops, points)
        curve = fitted.law.loss(n, flops / cost.flops(n))
        axes.plot(n, curve, color=colour, linewidth=1.4)
        measured = [(runs[0].active, loss_at(runs, fitted.kind, "flops", flops)) for runs in sizes.values()]
        axes.plot(*zip(*[pair for pair in measured if pair[1] is not None], strict=True), "o", color=colour, ms=5)
        best = of_flops([fitted.law], cost, flops)
        if n[0] <= best.parameters[0] <= n[-1]:
            path.append((float(best.parameters[0]), float(best.losses[0])))
            axes.plot(*path[-1], "*", color=colour, ms=13, mec=style.INK, mew=0.6, zorder=5)
        ends.append((flops, float(curve[-1]), colour))
    if len(path) > 1:
        axes.plot(*zip(*path, strict=True), "--", color=style.INK, linewidth=1.0, alpha=0.6)
    style.log_amounts(axes.xaxis, low, high)
    style.grid(axes)
    axes.set_title(family(fitted.family))
    axes.set_xlabel("parameters a token meets, N")
    return ends


def _budget_labels(axes: Any, ends: Sequence[tuple[float, float, Any]]) -> None:
    """The FLOPs of each curve beside the panel, as high as its end where there is room."""
    low, high = axes.get_ylim()
    # More FLOPs lie lower at any size, so their label does, too.
    upwards = sorted(ends, key=lambda end: -end[0])
    least = APART * (high - low)
    heights = style.apart([loss for _, loss, _ in upwards], least, high - least / 2)
    for (flops, _, colour), height in zip(upwards, heights, strict=True):
        place = (1.015, height)
        axes.annotate(power(flops), place, xycoords=axes.get_yaxis_transform(), va="center", color=colour)
    title = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 9}
    axes.annotate("FLOPs", (1.015, 1), xytext=(0, 4), **title)


def _near_runs(n: Array, cost: Cost, flops: float, points: Sequence[Point]) -> Array:
    """Sizes that these FLOPs train on about as many tokens as runs had: farther out a curve shows a law alone."""
    tokens = flops / cost.flops(n)
    low, high = min(point.tokens for point in points), max(point.tokens for point in points)
    return n[(tokens >= low / ROOM) & (tokens <= high * ROOM)]


def _key(figure: Any) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", linestyle="", color=style.PAPER, label="measured (between two runs)"),
        Line2D([], [], color=style.PAPER, label="the law at equal FLOPs"),
        Line2D([], [], marker="*", linestyle="--", ms=11, color=style.PAPER, label="its lowest loss"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
