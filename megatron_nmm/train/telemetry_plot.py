"""The telemetry plot of a run: do images and text both still learn, at one look.

Panels, left to right: loss by context, gradient norm by part, each side's share of it; update share by part,
feature sizes visual against text over the run, and by depth at its end.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_nmm.models.parts import VISUAL_PARTS
from megatron_nmm.train.collapse import LIMITS
from megatron_nmm.train.metrics import Record
from megatron_nmm.train.plots import SMOOTHED_POINTS, logarithmic, thin
from megatron_nmm.train.telemetry import PARTS

TEXT_COLOUR, VISUAL_COLOUR, ALARM_COLOUR = "#4477aa", "#ee6677", "#bb0000"
SHADES = {
    "text": ("#4477aa", "#66ccee", "#228833", "#222222", "#999999", "#88ccaa"),
    "visual": ("#ee6677", "#ccbb44", "#aa3377", "#ee8866", "#7a0019"),
}
"""Cold colours for parts that serve text, warm ones for visual parts (Paul Tol's schemes)."""
DEPTHS = {"first layer": 0.0, "middle layer": 0.5, "last layer": 1.0}
"""Layers drawn over the run, as places between the first (0) and the last (1)."""


def telemetry_plot(records: Sequence[Record], path: Path, title: str) -> None:
    """Draw ``records`` of metrics.jsonl, at least one of telemetry among them, into a PNG at ``path``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    readings = [record for record in records if record["event"] == "telemetry"]
    alarms = [record for record in records if record["event"] == "alarm"]
    figure = Figure(figsize=(15, 8.5), layout="constrained")
    (loss, gradient, share), (update, ratio, depth) = figure.subplots(2, 3)
    _draw_losses(loss, [record for record in records if record["event"] == "step"])
    _draw_parts(gradient, readings, "gradient", "gradient norm (before clipping)")
    _draw_share(share, readings, _steps_of(alarms, "weak_gradient"))
    _draw_parts(update, readings, "update_share", "update / weight (norms of a step)")
    _mark(update, _steps_of(alarms, "no_update"))
    _draw_ratios(ratio, readings, _steps_of(alarms, "feature_ratio"))
    _draw_depth(depth, readings[-1])
    for axes in (loss, gradient, share, update, ratio):
        axes.set_xlabel("step")
        axes.set_xlim(left=0)
    for axes in (loss, gradient, share, update, ratio):
        if axes.has_data():
            logarithmic(axes)
    depth.grid(alpha=0.3)
    for axes in (loss, share, ratio, depth):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, framealpha=0.9)
    # The parts of both panels, below all: ten names would hide the curves.
    handles, labels = gradient.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(PARTS), fontsize=9)
    steps = len({record["step"] for record in alarms})
    figure.suptitle(f"{title}: {f'alarms in {steps} of' if steps else 'no alarm in'} {len(readings)} measured steps")
    FigureCanvasAgg(figure).print_figure(str(path), dpi=110)


def _draw_losses(axes: Any, steps: Sequence[Record]) -> None:
    axes.set_title("loss by context")
    axes.set_ylabel("nats per supervised token")
    labels = {"text": ("after text alone", TEXT_COLOUR), "image": ("after an image", VISUAL_COLOUR)}
    for context, (label, colour) in labels.items():
        points = [(r["step"], r["contexts"][context]["loss"]) for r in steps]
        _draw(axes, [(step, loss) for step, loss in points if loss is not None], label, colour)


def _draw_parts(axes: Any, readings: Sequence[Record], key: str, title: str) -> None:
    """One curve a part that ever trained."""
    axes.set_title(title)
    shades = {side: iter(colours) for side, colours in SHADES.items()}
    for part in dict.fromkeys(part for reading in readings for part in reading["parts"]):
        points = [(r["step"], r["parts"][part][key]) for r in readings if part in r["parts"]]
        colour = next(shades["visual" if part in VISUAL_PARTS else "text"])
        # A logarithmic axis has no place for 0; the alarm marks show where a part stood still.
        _draw(axes, [(step, value) for step, value in points if value], part.replace("_", " "), colour)


def _draw_share(axes: Any, readings: Sequence[Record], alarms: Sequence[int]) -> None:
    """Both sides: where one holds nearly everything, its own curve does not show how little the other has."""
    axes.set_title("share of the gradient norm")
    for side, colour in (("visual", VISUAL_COLOUR), ("others", TEXT_COLOUR)):
        points = [(r["step"], _share(r, side)) for r in readings if _share(r, side)]
        _draw(axes, points, side, colour)
    limit = LIMITS["weak_gradient"]
    axes.axhline(limit, color=ALARM_COLOUR, linestyle=":", linewidth=1.2)
    axes.set_ylim(limit / 3, 1.5)
    _mark(axes, alarms)


def _share(reading: Record, side: str) -> float:
    """Gradient norm of ``side`` relative to that of all that trains; 0 where either has no value."""
    parts = [reading[name]["gradient"] for name in ("visual", "others") if reading[name]]
    own = reading[side] and reading[side]["gradient"]
    return float(own / math.hypot(*parts)) if own and None not in parts else 0.0


def _draw_ratios(axes: Any, readings: Sequence[Record], alarms: Sequence[int]) -> None:
    axes.set_title("size of features, visual / text")
    last = len(readings[-1]["features"]["ratio"]) - 1
    for (label, depth), colour in zip(DEPTHS.items(), ("#66ccee", "#4477aa", "#222222"), strict=True):
        points = [(r["step"], r["features"]["ratio"][round(depth * last)]) for r in readings]
        _draw(axes, [(step, ratio) for step, ratio in points if ratio], label, colour)
    limit = LIMITS["feature_ratio"]
    for edge in (limit, 1 / limit):
        axes.axhline(edge, color=ALARM_COLOUR, linestyle=":", linewidth=1.2, label=None if edge < 1 else "alarm")
    axes.set_ylim(1 / limit / 2, limit * 2)
    _mark(axes, alarms)


def _draw_depth(axes: Any, reading: Record) -> None:
    axes.set_title(f"size of features by depth, step {reading['step']}")
    axes.set_xlabel("decoder layer")
    axes.set_ylabel("mean over rows of a row's rms")
    for side, colour in (("text", TEXT_COLOUR), ("visual", VISUAL_COLOUR)):
        points = [(layer, size) for layer, size in enumerate(reading["features"][side], 1) if size is not None]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3, label=f"{side} rows")
    axes.set_xlim(0.5, len(reading["features"]["text"]) + 0.5)
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", integer=True)


def _draw(axes: Any, points: Sequence[tuple[int, float]], label: str, colour: str) -> None:
    if points:
        dots = "o" if len(points) == 1 else ""  # one point makes no line
        axes.plot(
            *zip(*thin(points, SMOOTHED_POINTS), strict=True), dots + "-", color=colour, linewidth=1.5, label=label
        )


def _steps_of(alarms: Sequence[Record], rule: str) -> list[int]:
    return sorted({alarm["step"] for alarm in alarms if alarm["rule"] == rule})


def _mark(axes: Any, alarms: Sequence[int]) -> None:
    """A line at each step with an alarm."""
    for place, step in enumerate(alarms):
        axes.axvline(step, color=ALARM_COLOUR, alpha=0.5, linewidth=1.0, label=None if place else "alarm")
