"""The loss plot of a run: training loss in total and by kind, validation points, the learning rate below."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_nmm.train.metrics import Record

KIND_COLOURS = {"text": "#4477aa", "caption": "#228833", "interleaved": "#ee6677"}
"""Paul Tol's bright scheme, told apart by colour-blind readers as well."""
TOTAL_COLOUR, VALIDATION_COLOUR = "#222222", "#aa3377"
SMOOTHED_POINTS = 100
"""A curve is averaged down to at most this many points; the raw one stands faintly behind it."""


def loss_plot(records: Sequence[Record], path: Path, title: str) -> None:
    """Draw ``records`` of metrics.jsonl into a PNG at ``path``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = [record for record in records if record["event"] == "step"]
    validations = [record for record in records if record["event"] == "validation"]
    figure = Figure(figsize=(9, 6), layout="constrained")
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _draw_losses(loss, steps)
    _draw_validations(loss, validations)
    loss.set_title(title)
    loss.set_ylabel("loss (nats per supervised token)")
    if loss.has_data():
        logarithmic(loss)
        loss.legend(loc="upper right", framealpha=0.9)
    rate.plot([r["step"] for r in steps], [r["learning_rate"] for r in steps], color=TOTAL_COLOUR)
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    rate.set_ylim(bottom=0.0)
    rate.set_xlim(left=0)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rate.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_figure(str(path), dpi=120)


def logarithmic(axes: Any) -> None:
    """Plain numbers at the ticks. A linear axis would show the first steps and nothing after them."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(LogLocator(subs=range(1, 10)))
    axes.yaxis.set_minor_formatter("")
    axes.grid(alpha=0.3, which="both")


def _draw_losses(axes: Any, steps: Sequence[Record]) -> None:
    for kind, colour in KIND_COLOURS.items():
        points = [(r["step"], r["kinds"][kind]["loss"]) for r in steps if r["kinds"][kind]["loss"] is not None]
        _draw_curve(axes, points, kind, colour, width=1.4)
    total = [(r["step"], r["loss"]) for r in steps if r["loss"] is not None]
    _draw_curve(axes, total, "all kinds", TOTAL_COLOUR, width=2.0)


def _draw_curve(axes: Any, points: Sequence[tuple[int, float]], label: str, colour: str, width: float) -> None:
    """Raw points faintly, their running means on top."""
    if not points:
        return
    axes.plot(*zip(*points, strict=True), color=colour, alpha=0.2, linewidth=0.7)
    axes.plot(*zip(*thin(points, SMOOTHED_POINTS), strict=True), color=colour, linewidth=width, label=label)


def _draw_validations(axes: Any, validations: Sequence[Record]) -> None:
    points = [(r["step"], r["loss"]) for r in validations if r["loss"] is not None]
    if not points:
        return
    label = "validation (mean over sources)"
    axes.plot(*zip(*points, strict=True), "D--", color=VALIDATION_COLOUR, markersize=6, linewidth=1.0, label=label)
    # Only the last one is labelled with its value: it is the run's result.
    axes.annotate(
        f"{points[-1][1]:.3f}",
        points[-1],
        xytext=(-8, 12),
        textcoords="offset points",
        ha="right",
        color=VALIDATION_COLOUR,
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0},
    )


def thin(points: Sequence[tuple[int, float]], most: int) -> list[tuple[float, float]]:
    """At most ``most`` points: the means of runs of equally many neighbours."""
    size = -(-len(points) // most)
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
