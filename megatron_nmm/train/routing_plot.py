"""The routing plot of a run with sparse experts: who serves images, who text, and is the load even.

Panels, left to right: share of images among each expert's tokens and its load, in the last measured step, and
specialization by depth; over the run specialization, load entropy, and balance loss with the highest load.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from megatron_nmm.train.collapse import LIMITS
from megatron_nmm.train.metrics import Record
from megatron_nmm.train.plots import SMOOTHED_POINTS, thin

ALARM_COLOUR, MEAN_COLOUR, EMPTY_COLOUR = "#bb0000", "#222222", "#dddddd"
DEPTHS = {"first": (0.0, "#66ccee"), "middle": (0.5, "#4477aa"), "last": (1.0, "#aa3377")}
"""Sparse layers drawn over the run, as places between the first (0) and the last (1)."""
NUMBERED = (16, 16)
"""At most so many experts and layers leave room for the expert's number in its cell."""
LOAD_SCALE = (2.0, 4.0)
"""Least and highest top of the load's colours in units of the mean: an even load looks even, and one expert that takes
nearly everything does not make all others look alike."""


def routing_plot(records: Sequence[Record], path: Path, title: str) -> None:
    """Draw ``records`` of metrics.jsonl, at least one of routing among them, into a PNG at ``path``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    readings = [record for record in records if record["event"] == "routing"]
    rules = ("load_entropy", "dead_experts")
    alarms = [record for record in records if record["event"] == "alarm" and record["rule"] in rules]
    figure = Figure(figsize=(15, 9), layout="constrained")
    (shares, loads, depth), (scores, entropy, balance) = figure.subplots(2, 3)
    draw_maps(figure, shares, loads, readings[-1])
    _draw_depth(depth, readings[-1])
    _draw_scores(scores, readings)
    _draw_entropy(entropy, readings)
    _draw_balance(balance, readings)
    for axes in (scores, entropy, balance):
        axes.set_xlabel("step")
        axes.set_xlim(left=0)
    for axes, rule in ((entropy, "load_entropy"), (balance, "dead_experts")):
        _mark(axes, sorted({alarm["step"] for alarm in alarms if alarm["rule"] == rule}), rule.replace("_", " "))
    for axes in (depth, scores, entropy, balance):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, framealpha=0.9, loc="upper left" if axes is depth else "best")
    steps = len({record["step"] for record in alarms})
    told = f"alarms in {steps} of" if steps else "no alarm in"
    figure.suptitle(f"{title}: routing of sparse experts, {told} {len(readings)} measured steps")
    FigureCanvasAgg(figure).print_figure(str(path), dpi=110)


def draw_maps(figure: Any, shares: Any, loads: Any, reading: Record) -> None:
    """Layers x experts, those of each layer from text to images: who serves what, and how much each has to do."""
    from matplotlib.colors import TwoSlopeNorm

    share_LE, load_LE, order_LE = cells(reading)
    everything = [sum(map(sum, reading[side])) for side in ("text", "image")]
    whole = everything[1] / max(1, sum(everything))
    # White is the share of the step itself, so that colour means a choice and not a mixture with many images.
    norm = TwoSlopeNorm(min(max(whole, 0.01), 0.99), 0.0, 1.0)
    colours = _colours("RdBu_r")
    bar = figure.colorbar(_map(shares, share_LE, reading["layers"], cmap=colours, norm=norm), ax=shares)
    bar.set_ticks([0.0, whole, 1.0], labels=["text only", f"{100 * whole:.0f} %, as in the step", "images only"])
    bar.ax.tick_params(labelsize=8)
    shares.set_title(f"images among the tokens of each expert, step {reading['step']}")
    highest = max([LOAD_SCALE[0], *(load for row in load_LE for load in row)])
    top = min(highest, LOAD_SCALE[1])
    coloured = _map(loads, load_LE, reading["layers"], cmap=_colours("viridis"), vmin=0.0, vmax=top)
    figure.colorbar(coloured, ax=loads, extend="max" if highest > top else "neither")
    loads.set_title("load of each expert / mean load")
    if len(order_LE[0]) <= NUMBERED[0] and len(order_LE) <= NUMBERED[1]:
        for axes in (shares, loads):
            _number(axes, order_LE)


def cells(reading: Record) -> tuple[list[list[float]], list[list[float]], list[list[int]]]:
    """[layers][E] image share (nan: no tokens), load over the mean, and number of each expert; a layer's experts go
    from text to images, those without tokens last."""
    shares, loads, orders = [], [], []
    for text, image in zip(reading["text"], reading["image"], strict=True):
        both = [a + b for a, b in zip(text, image, strict=True)]
        share = [b / c if c else math.nan for b, c in zip(image, both, strict=True)]
        order = sorted(range(len(both)), key=lambda expert: math.inf if both[expert] == 0 else share[expert])
        mean = sum(both) / len(both) or math.nan
        shares.append([share[expert] for expert in order])
        loads.append([both[expert] / mean for expert in order])
        orders.append(order)
    return shares, loads, orders


def _colours(name: str) -> Any:
    """A colour map that shows grey where there is no value."""
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad=EMPTY_COLOUR)


def _map(axes: Any, cells_LE: list[list[float]], layers: Sequence[int], **colours: Any) -> Any:
    image = axes.imshow(cells_LE, aspect="auto", interpolation="nearest", **colours)
    every = -(-len(layers) // 16)
    axes.set_yticks(range(0, len(layers), every), labels=layers[::every])
    axes.set_ylabel("decoder layer")
    axes.set_xticks([])
    axes.set_xlabel("experts of the layer, from text to images (grey: no tokens)")
    return image


def _number(axes: Any, order_LE: list[list[int]]) -> None:
    """Each cell's expert: the order differs from layer to layer."""
    for row, order in enumerate(order_LE):
        for column, expert in enumerate(order):
            axes.text(
                column, row, expert, ha="center", va="center", fontsize=7, color="#222222",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 0.8},
            )  # fmt: skip


def _draw_depth(axes: Any, reading: Record) -> None:
    axes.set_title(f"specialization and load by depth, step {reading['step']}")
    axes.set_xlabel("decoder layer")
    curves = {
        "specialization (P1: mean of 1 - H)": ("specialization", "#aa3377"),
        "modality and expert: mutual information (bits)": ("mutual_information", "#ee8866"),
        "load entropy / log E": ("load_entropy", "#228833"),
    }
    for label, (key, colour) in curves.items():
        points = [
            (layer, value) for layer, value in zip(reading["layers"], reading[key], strict=True) if value is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=4, label=label)
    axes.set_ylim(-0.03, 1.4)  # room for the legend
    axes.locator_params(axis="x", integer=True)


def _draw_scores(axes: Any, readings: Sequence[Record]) -> None:
    axes.set_title("specialization (1: each expert serves one modality)")
    last = len(readings[-1]["layers"]) - 1
    for name, (place, colour) in DEPTHS.items():
        layer = round(place * last)
        points = [(record["step"], record["specialization"][layer]) for record in readings]
        _draw(axes, points, f"{name} sparse layer", colour)
    _draw(axes, [(r["step"], _over(fmean, r["specialization"])) for r in readings], "mean of all", MEAN_COLOUR)
    axes.set_ylim(-0.03, 1.05)


def _draw_entropy(axes: Any, readings: Sequence[Record]) -> None:
    axes.set_title("load entropy / log E (1: even load)")
    _draw(axes, [(r["step"], _over(fmean, r["load_entropy"])) for r in readings], "mean of all layers", MEAN_COLOUR)
    _draw(axes, [(r["step"], _over(min, r["load_entropy"])) for r in readings], "lowest layer", "#228833")
    axes.axhline(LIMITS["load_entropy"], color=ALARM_COLOUR, linestyle=":", linewidth=1.2, label="alarm below")
    axes.set_ylim(-0.03, 1.05)


def _draw_balance(axes: Any, readings: Sequence[Record]) -> None:
    axes.set_title("balance loss, highest load, idle experts")
    _draw(
        axes,
        [(r["step"], _over(fmean, r["balance"])) for r in readings],
        "balance loss, mean of layers (1: even)",
        MEAN_COLOUR,
    )
    _draw(axes, [(r["step"], _over(max, r["peak"])) for r in readings], "highest load of all layers / mean", "#ccbb44")
    _draw(axes, [(r["step"], sum(map(len, r["dead"]))) for r in readings], "experts without tokens", ALARM_COLOUR)
    axes.set_ylim(bottom=0)


def _over(summary: Any, values: Sequence[float | None]) -> float | None:
    """``summary`` of those that have a value."""
    known = [value for value in values if value is not None]
    return float(summary(known)) if known else None


def _draw(axes: Any, points: Sequence[tuple[int, float | None]], label: str, colour: str) -> None:
    known = [(step, value) for step, value in points if value is not None]
    if known:
        dots = "o" if len(known) == 1 else ""  # one point makes no line
        thinned = zip(*thin(known, SMOOTHED_POINTS), strict=True)
        axes.plot(*thinned, dots + "-", color=colour, linewidth=1.5, label=label)


def _mark(axes: Any, steps: Sequence[int], rule: str) -> None:
    """A line at each step with an alarm."""
    for place, step in enumerate(steps):
        axes.axvline(step, color=ALARM_COLOUR, alpha=0.4, linewidth=1.0, label=None if place else f"alarm: {rule}")
