"""How well the laws foretell: predicted against measured losses, and the relative error by size."""

from typing import Any

import numpy as np

from megatron_nmm.scaling.law import Fitted
from megatron_nmm.scaling.point import Point
from megatron_nmm.scaling.report.plots import style
from megatron_nmm.scaling.report.study import Study
from megatron_nmm.scaling.words import family

NAME = "residuals"
TITLE = "Predicted and measured"
MOST_NAMES = 3
"""Outliers whose names are written."""
APART = 0.05
"""Of the height of the panel: the least between two names."""
ASIDE = 1.12
"""Families of equal sizes stand side by side, this factor apart."""


def draw(study: Study) -> Any:
    """The figure. None without runs that belong to a fit."""
    shown = [(fitted, study.points_of(fitted)) for fitted in study.headline()]
    if not any(points for _, points in shown):
        return None
    figure, (agreement, errors) = style.panels(2, size=(5.6, 4.2))
    for place, (fitted, points) in enumerate(shown):
        colour, marker = style.FAMILIES[fitted.family]
        measured = [point.loss(fitted.kind) for point in points]
        predicted = [float(fitted.law.loss(point.active, point.tokens)) for point in points]
        look = {"color": colour, "marker": marker, "linestyle": "", "ms": 5, "alpha": 0.75, "mew": 0}
        agreement.plot(measured, predicted, label=_label(fitted), **look)
        beside = _aside(place, len(shown))
        errors.plot([p.active * beside for p in points], [error(fitted, point) for point in points], **look)
    _diagonal(agreement)
    _by_size(errors, [(fitted, point) for fitted, points in shown for point in points])
    _name_outliers(errors, shown)
    return figure


def _aside(place: int, families: int) -> float:
    return float(ASIDE ** (place - (families - 1) / 2))


def error(fitted: Fitted, point: Point) -> float:
    """Measured over predicted, less one, in percent."""
    return 100 * (point.loss(fitted.kind) / float(fitted.law.loss(point.active, point.tokens)) - 1)


def _label(fitted: Fitted) -> str:
    return f"{family(fitted.family)}: mean error {fitted.quality.mae_percent:.2f} %"


def _diagonal(axes: Any) -> None:
    low = min(axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], color=style.INK, linewidth=0.9, alpha=0.6, zorder=0)
    axes.set(xlim=(low, high), ylim=(low, high), xlabel="measured loss (nats)", ylabel="predicted loss (nats)")
    axes.set_title("predicted and measured")
    axes.legend(loc="upper left", handletextpad=0.2)
    style.grid(axes)


def _by_size(axes: Any, rows: list[tuple[Fitted, Point]]) -> None:
    sizes = [point.active for _, point in rows]
    style.log_amounts(axes.xaxis, min(sizes) / 1.4, max(sizes) * 1.6)
    axes.axhline(0, color=style.INK, linewidth=0.9, alpha=0.6)
    limit = 1.25 * max(0.1, *(abs(error(fitted, point)) for fitted, point in rows))
    axes.set(ylim=(-limit, limit), xlabel="parameters a token meets, N", ylabel="measured above predicted (%)")
    axes.set_title("error by size of model")
    style.grid(axes)


def _name_outliers(axes: Any, shown: list[tuple[Fitted, tuple[Point, ...]]]) -> None:
    """Rings around the runs that the fits found far out; the farthest of them are named."""
    far = [
        (point.run, point.active * _aside(place, len(shown)), error(fitted, point))
        for place, (fitted, points) in enumerate(shown)
        for point in points
        if point.run in fitted.outlying
    ]
    far.sort(key=lambda row: -abs(row[2]))
    named = sorted(far[:MOST_NAMES], key=lambda row: row[2])
    low, high = axes.get_ylim()
    heights = style.apart([percent for _, _, percent in named], APART * (high - low))
    for _, n, percent in far:
        axes.plot(n, percent, "o", ms=11, mfc="none", mec=style.INK, mew=1.0)
    for (name, n, _), height in zip(named, heights, strict=True):
        left = n < np.sqrt(np.prod(axes.get_xlim()))
        shift = {"xytext": (9 if left else -9, 0), "textcoords": "offset points"}
        axes.annotate(name, (n, height), ha="left" if left else "right", va="center", fontsize=8, **shift)
