"""The plot of a run in emulated 8 bits: which products lose values to underflow and overflow, and when."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from megatron_nmm.precision.casts import OPERANDS
from megatron_nmm.train.metrics import Record

COLOURS = {"input": "#4477aa", "weight": "#228833", "gradient": "#ee6677"}
"""Paul Tol's bright scheme."""
LOSSES = {"underflow": "-", "overflow": "--"}
SMALLEST = 1e-6
"""Shares below this are drawn as this: a logarithmic axis has no 0."""


def casts_plot(records: Sequence[Record], path: Path, title: str) -> None:
    """Draw ``records`` of metrics.jsonl, at least one of casts among them, into a PNG at ``path``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    readings = [record for record in records if record["event"] == "casts"]
    figure = Figure(figsize=(12, 1.5 + 0.3 * max(16, len(readings[-1]["products"]))), layout="constrained")
    curves, shares = figure.subplots(1, 2, width_ratios=(3, 2))
    draw_losses_over_steps(curves, readings)
    map_ = draw_shares(shares, readings)
    figure.colorbar(map_, ax=shares, label="share of values", shrink=0.6)
    figure.suptitle(f"{title}: values that casts to 8 bits lose")
    FigureCanvasAgg(figure).print_figure(str(path), dpi=110)


def draw_losses_over_steps(axes: Any, readings: Sequence[Record]) -> None:
    """Of each operand the worst product at every measured step."""
    steps = [reading["step"] for reading in readings]
    for loss, line in LOSSES.items():
        for operand in OPERANDS:
            worst = [max(SMALLEST, *reading[loss][operand]) for reading in readings]
            if max(worst) > SMALLEST:
                axes.plot(steps, worst, f"o{line}", color=COLOURS[operand], markersize=3, label=f"{operand}, {loss}")
    axes.set(yscale="log", ylim=(SMALLEST, 2), xlabel="step", title="worst product")
    axes.set_ylabel("share of values that vanish (underflow) or are cut off (overflow)")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)


def draw_shares(axes: Any, readings: Sequence[Record], *, named: bool = True) -> Any:
    """Products x (operands by loss), means over ``readings``, with the share in each cell; what a colour bar takes."""
    from matplotlib.colors import LogNorm

    products = readings[-1]["products"]
    columns = [(loss, operand) for loss in LOSSES for operand in OPERANDS]
    shares = [
        [fmean(reading[loss][operand][place] for reading in readings) for loss, operand in columns]
        for place in range(len(products))
    ]
    drawn = [[max(share, SMALLEST) for share in row] for row in shares]
    map_ = axes.imshow(drawn, aspect="auto", cmap="YlOrRd", norm=LogNorm(SMALLEST, 1))
    for place, row in enumerate(shares):
        for column, share in enumerate(row):
            if share:
                dark = share > 0.05
                axes.text(column, place, brief(share), ha="center", va="center", fontsize=7, color="w" if dark else "k")
    axes.set_xticks(range(len(columns)), [f"{operand}\n{loss}" for loss, operand in columns], fontsize=7)
    axes.set_yticks(range(len(products)), products if named else [""] * len(products), fontsize=7)
    axes.axvline(len(OPERANDS) - 0.5, color="w", linewidth=3)
    return map_


def brief(share: float) -> str:
    """A share in at most five signs: ``12%``, ``.3%``, ``<.01%``."""
    percent = 100 * share
    if percent >= 9.95:
        return f"{percent:.0f}%"
    return f"{percent:.2g}%" if percent >= 0.01 else "<.01%"
