"""Draws what a pack plan looks like: how full packs are, how long samples, how even samples and patches are spread."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megatron_nmm.data.packing import Sizes, lower_bound
from megatron_nmm.data.plan_report import Packed, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

BLUE, ORANGE, GREY, BLACK, RED = "#3b6ea8", "#e08a3c", "#5a5a5a", "#202020", "#c0392b"
BARS = 60
INCHES, DOTS_PER_INCH = (11, 7.5), 110


def draw_plan(path: Path, packed: Packed, source: str) -> None:
    """Write the picture of a plan as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    limits = packed.limits
    # No pyplot: its state is global, and it would look for a display.
    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    (fill, lengths), (company, patches) = figure.subplots(2, 2)
    _draw_fill(fill, packed)
    _draw_lengths(lengths, packed)
    _draw_spread(company, packed.samples, "Samples", None)
    if packed.patches.any():
        _draw_spread(patches, packed.patches, "Vision patches", limits.patches)
    else:
        patches.set_axis_off()
        patches.text(0.5, 0.5, "no images", ha="center", va="center", color=GREY, transform=patches.transAxes)
    above = len(packed.bins) / lower_bound(packed.sample_tokens, packed.sample_patches, limits) - 1
    figure.suptitle(
        f"{source}: {len(packed.sample_tokens):,} samples in {len(packed.bins):,} packs of {limits.tokens:,} tokens, "
        f"{above:.2%} above the bound",
        fontsize=13,
    )
    figure.savefig(path, format="png", metadata={"Software": None})


def _draw_fill(axes: "Axes", packed: Packed) -> None:
    """Tokens of packs. Most are full: a logarithmic count shows those that are not."""
    limit = packed.limits.tokens
    axes.hist(packed.tokens, bins=_edges(limit), color=BLUE)
    _finish(axes, "Fill of packs", "tokens in a pack", "packs")
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    _mark(axes, limit, f"limit {limit:,}", RED, "-")
    axes.set_xlim(0, _right(limit))


def _draw_lengths(axes: "Axes", packed: Packed) -> None:
    """Tokens of samples, with and without images."""
    limit = packed.limits.tokens
    smallest = max(1, int(packed.sample_tokens.min()))
    edges = np.unique(np.geomspace(smallest, limit + 1, BARS + 1).round()) - 0.5
    image = packed.sample_patches > 0
    parts = [(packed.sample_tokens[~image], BLUE, "text"), (packed.sample_tokens[image], ORANGE, "with images")]
    values, colours, names = zip(*[part for part in parts if len(part[0])], strict=True)
    axes.hist(values, bins=edges.tolist(), stacked=True, color=colours, label=names)
    _finish(axes, "Lengths of samples", "tokens in a sample", "samples")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _mark(axes, limit, f"limit {limit:,}", RED, "-")


def _draw_spread(axes: "Axes", values: Sizes, title: str, limit: int | None) -> None:
    """Values of packs with their median and 99th percentile, and the limit if there is one."""
    found = spread(values)
    top = found["max"] if limit is None else limit
    axes.hist(values, bins=_edges(top), color=BLUE)
    _finish(axes, f"{title} per pack", f"{title.lower()} in a pack", "packs")
    _mark(axes, found["p50"], f"p50 {found['p50']:,}", BLACK, "--")
    _mark(axes, found["p99"], f"p99 {found['p99']:,}", BLACK, ":")
    if limit is not None:
        _mark(axes, limit, f"limit {limit:,}", RED, "-")
    axes.set_xlim(-0.5, _right(top))


def _edges(top: int) -> list[float]:
    """Edges of about BARS bars of whole numbers, all of one width, the last one ending with ``top``, the first with 0
    in it."""
    width = -(-(top + 1) // BARS)
    return [top + 0.5 - width * bar for bar in range(-(-(top + 1) // width), -1, -1)]


def _right(top: int) -> float:
    """Where an axis ends that shows a line at ``top``."""
    return top * 1.02 + 0.5


def _mark(axes: "Axes", value: float, name: str, colour: str, style: str) -> None:
    axes.axvline(value, color=colour, linestyle=style, linewidth=1.5, label=name)
    axes.legend(loc="best", frameon=True, framealpha=0.9, fontsize=9)


def _finish(axes: "Axes", title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    _whole(axes.xaxis)
    _whole(axes.yaxis)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _whole(axis: "Axis") -> None:
    """Ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", integer=True))
    axis.set_major_formatter("{x:,.0f}")
