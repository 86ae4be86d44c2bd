"""Loss against model size at equal FLOPs: what was measured, the law's curves, and where each is lowest."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from megatron_nmm.scaling.law import Fitted
from megatron_nmm.scaling.optimum import Cost, of_flops
from megatron_nmm.scaling.plots import style
from megatron_nmm.scaling.point import Point
from megatron_nmm.scaling.study import Study, by_size, loss_at
from megatron_nmm.scaling.words import family, power

NAME = "isoflop"
TITLE = "Loss at equal FLOPs"
CURVES = 5
"""Budgets to draw."""
FEWEST = 3
"""Sizes that must have been measured at a budget."""


def draw(study: Study) -> Any:
    """The figure: a panel a family. None where no family has ``FEWEST`` sizes at any budget."""
    shown = [(fitted, study.points_of(fitted)) for fitted in study.headline()]
    shown = [(fitted, points) for fitted, points in shown if budgets(points, fitted.kind)]
    if not shown:
        return None
    figure, axes = style.panels(len(shown), sharey=True)
    for panel, (fitted, points) in zip(axes, shown, strict=True):
        _panel(panel, fitted, points)
    axes[0].set_ylabel(f"held-out loss, {_kind(shown[0][0].kind)} (nats per token)")
    return figure


def _kind(name: str) -> str:
    return "mean over kinds" if name == "avg" else name


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


def _panel(axes: Any, fitted: Fitted, points: Sequence[Point]) -> None:
    """Curves of one family, from the smallest budget (dark) to the largest."""
    cost, sizes = Cost.of(fitted), by_size(points)
    chosen = budgets(points, fitted.kind)
    low, high = min(p.active for p in points) / 1.6, max(p.active for p in points) * 1.6
    n = np.geomspace(low, high, 200)
    best = [of_flops([fitted.law], cost, flops) for flops in chosen]
    # A label stands at the right end of its curve, beside the panel.
    for flops, colour, found in zip(chosen, style.shades(len(chosen)), best, strict=True):
        curve = fitted.law.loss(n, flops / cost.flops(n))
        axes.plot(n, curve, color=colour, linewidth=1.4)
        measured = [(runs[0].active, loss_at(runs, fitted.kind, "flops", flops)) for runs in sizes.values()]
        axes.plot(*zip(*[pair for pair in measured if pair[1] is not None], strict=True), "o", color=colour, ms=5)
        if low <= found.parameters[0] <= high:
            axes.plot(found.parameters, found.losses, "*", color=colour, ms=13, mec=style.INK, mew=0.6, zorder=5)
        axes.annotate(
            power(flops), (high, curve[-1]), xytext=(4, 0), textcoords="offset points", va="center", color=colour
        )
    path = [(float(one.parameters[0]), float(one.losses[0])) for one in best if low <= one.parameters[0] <= high]
    if len(path) > 1:
        axes.plot(*zip(*path, strict=True), "--", color=style.INK, linewidth=1.0, alpha=0.6)
    style.log_amounts(axes.xaxis, low, high)
    style.grid(axes)
    axes.annotate("FLOPs", (1, 1), xytext=(4, 4), xycoords="axes fraction", textcoords="offset points", fontsize=9)
    axes.set_title(family(fitted.family))
    axes.set_xlabel("parameters a token meets, N")
    _key(axes)


def _key(axes: Any) -> None:
    from matplotlib.lines import Line2D

    axes.legend(
        handles=[
            Line2D([], [], marker="o", linestyle="", color=style.PAPER, label="measured (between two runs)"),
            Line2D([], [], color=style.PAPER, label="the law at these FLOPs"),
            Line2D([], [], marker="*", linestyle="--", ms=11, color=style.PAPER, label="lowest"),
        ],
        loc="upper right",
    )
