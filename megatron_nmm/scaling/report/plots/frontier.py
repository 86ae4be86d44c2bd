"""Loss against training FLOPs: each size's runs, the lower hull of all of them, and the power law through it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from megatron_nmm.scaling.fit.frontier import CHEAP, lower_hull
from megatron_nmm.scaling.law import Fitted
from megatron_nmm.scaling.papers.laws import frontier as papers_frontier
from megatron_nmm.scaling.point import AVERAGE, Point
from megatron_nmm.scaling.report.plots import style
from megatron_nmm.scaling.report.study import Study, by_size
from megatron_nmm.scaling.words import MINUS, family

NAME = "frontier"
TITLE = "Loss and training FLOPs"


def draw(study: Study) -> Any:
    """The figure: a panel a family. None without runs."""
    shown = [(fitted, study.points_of(fitted)) for fitted in study.headline()]
    shown = [(fitted, points) for fitted, points in shown if len(points) > 1]
    if not shown:
        return None
    figure, axes = style.panels(len(shown), sharey=True)
    for panel, (fitted, points) in zip(axes, shown, strict=True):
        _panel(panel, fitted, points)
    axes[0].set_ylabel(f"held-out loss, {'mean over kinds' if shown[0][0].kind == 'avg' else shown[0][0].kind} (nats)")
    return figure


def hull_of(points: Sequence[Point], kind: str) -> list[tuple[float, float]]:
    """(FLOPs, loss) of the runs on the lower convex hull in logarithms, as far as it falls."""
    x, y = lower_hull(np.log([point.flops for point in points]), np.log([point.loss(kind) for point in points]))
    return [(float(flops), float(loss)) for flops, loss in zip(np.exp(x), np.exp(y), strict=True)]


def line_of(exponents: Mapping[str, Mapping[str, float]]) -> tuple[float, float] | None:
    """(k, c) of the power law L = k C^c through the hull of the runs; None where a fit has none."""
    found = exponents.get("regression", {})
    return (found["k"], found["c"]) if {"k", "c"} <= found.keys() else None


def _panel(axes: Any, fitted: Fitted, points: Sequence[Point]) -> None:
    sizes = by_size(points)
    colours = style.shades(len(sizes))
    for (label, runs), colour in zip(sizes.items(), colours, strict=True):
        axes.plot(
            [run.flops for run in runs],
            [run.loss(fitted.kind) for run in runs],
            "o-",
            color=colour,
            ms=3.5,
            linewidth=0.9,
            label=label,
        )
    hull = hull_of(points, fitted.kind)
    axes.plot(*zip(*hull, strict=True), "o", ms=8, mfc="none", mec=style.INK, mew=1.1, zorder=4, label="lower hull")
    low, high = min(p.flops for p in points), max(p.flops for p in points)
    # The power law was fitted without the cheapest runs, so it is drawn without them.
    flops = np.geomspace(low * (high / low) ** CHEAP, high * 2, 50)
    for line, colour, name in (
        (line_of(fitted.exponents), style.INK, ""),
        (_papers(fitted, high), style.PAPER, "P1: "),
    ):
        if line:
            words = f"{name}L = {line[0]:.3g} C$^{{{f'{line[1]:.3f}'.replace('-', MINUS)}}}$"
            axes.plot(flops, line[0] * flops ** line[1], "-" if not name else ":", color=colour, label=words)
    _scales(axes, low, high * 2)
    axes.set_title(family(fitted.family))
    axes.set_xlabel("training FLOPs, C")
    axes.legend(loc="lower left", ncols=2, columnspacing=1.0, handlelength=1.6, fontsize=8.5)


def _papers(fitted: Fitted, flops: float) -> tuple[float, float] | None:
    """P1's line where it was measured at budgets like these."""
    line = papers_frontier(fitted.family) if fitted.kind == AVERAGE else None
    return (line.scale, line.slope) if line and 1e19 < flops < 1e24 else None


def _scales(axes: Any, low: float, high: float) -> None:
    """Both logarithmic; losses with plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axes.set(xscale="log", yscale="log", xlim=(low / 1.4, high))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.minorticks_off()
    style.grid(axes)
