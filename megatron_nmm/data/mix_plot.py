"""The picture of a mixture: what is read at each point of a run, and how often each source has been read by then."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from megatron_nmm.data.forecast import Course, Forecast

COLOURS = ("#4477aa", "#228833", "#997700", "#ee6677", "#aa3377", "#33aacc", "#777777")
"""Paul Tol's bright scheme, told apart by colour-blind readers as well; the light ones darker, for they colour text."""
LABELLED_SHARE = 0.04
"""A share below this has no room for its number."""


def mix_plot(sources: Sequence[Forecast], course: Course, unit: str, path: Path, title: str) -> None:
    """Draw the shares of ``unit`` ("tokens") and the epochs of each source over a run into a PNG at ``path``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(10, 7), layout="constrained")
    shares, epochs = figure.subplots(2, 1, sharex=True)
    colours = [COLOURS[source % len(COLOURS)] for source in range(len(sources))]
    _draw_shares(shares, sources, course, colours)
    _draw_epochs(epochs, sources, course, colours)
    shares.set_title(title)
    shares.set_ylabel(f"share of {unit} (%)")
    epochs.set_ylabel("epochs read")
    epochs.set_xlabel("packs of the run")
    epochs.xaxis.set_major_formatter(EngFormatter(sep=""))
    shares.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, reverse=True)
    FigureCanvasAgg(figure).print_figure(str(path), dpi=120)


def _draw_shares(axes: Any, sources: Sequence[Forecast], course: Course, colours: Sequence[str]) -> None:
    """Bands, one on the other; each with its percent in the middle of every stretch in which it stays the same."""
    edges = np.concatenate([np.zeros((len(course.shares), 1)), 100 * course.shares.cumsum(1)], axis=1)
    steps = np.concatenate([edges, edges[-1:]])
    changes = [0, *(np.flatnonzero((np.diff(course.shares, axis=0) != 0).any(1)) + 1), len(course.shares)]
    for source, colour in enumerate(colours):
        low, high = steps[:, source], steps[:, source + 1]
        name = sources[source].name
        axes.fill_between(course.consumed, low, high, step="post", color=colour, label=name, linewidth=0)
        for first, last in pairwise(changes):
            share = course.shares[first, source]
            left, right = course.consumed[first], course.consumed[last]
            if share >= LABELLED_SHARE and right - left > 0.06 * course.consumed[-1]:
                middle = ((left + right) / 2, (low[first] + high[first]) / 2)
                axes.annotate(f"{100 * share:.4g}", middle, ha="center", va="center", color="white", weight="bold")
    axes.set_xlim(0, course.consumed[-1])
    axes.set_ylim(0, 100)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_epochs(axes: Any, sources: Sequence[Forecast], course: Course, colours: Sequence[str]) -> None:
    """A line per source, with its last value beside its end and a dot where it is used up."""
    top = float(course.epochs.max())
    end = course.consumed[-1]
    beside = _apart([float(value) for value in course.epochs[-1]], 0.055 * top)
    for source, (entry, colour) in enumerate(zip(sources, colours, strict=True)):
        axes.plot(course.consumed, course.epochs[:, source], color=colour, linewidth=2)
        if entry.used_up is not None and entry.used_up < end:
            axes.plot([entry.used_up], [entry.epochs], "o", color=colour, markersize=7, clip_on=False)
        axes.annotate(
            f"{entry.epochs:.3g} x {entry.name}{', used up' if entry.used_up is not None else ''}",
            (end, beside[source]),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            annotation_clip=False,
        )
    for whole in range(1, int(top) + 1):
        if top < 20:
            axes.axhline(whole, color="#dddddd", linewidth=0.8, zorder=0)
    axes.set_ylim(0, 1.05 * top)
    axes.spines[["top", "right"]].set_visible(False)


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """``values`` moved up as little as it takes for all of them to be ``gap`` apart."""
    places = list(values)
    reached = -gap
    for number in sorted(range(len(values)), key=lambda n: values[n]):
        places[number] = reached = max(values[number], reached + gap)
    return places
