"""Compare runs of one recipe in several number formats: loss curves in one picture, and what casts lost in each.

    python tools/compare_precision.py runs/precision/bf16 runs/precision/fp8_delayed --output runs/precision/casts.png

Each RUN is the folder of a finished run; the first is what the others are compared with. Above stand the training loss
(running mean, with held-out losses) and its distance from the first run's; below, for each run in 8 bits, the share of
every product's values that vanished or were cut off, a mean over the measured steps (journal.telemetry).
examples/compare_precision.sh trains the runs and calls this.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from megatron_nmm.config.refusal import refuse
from megatron_nmm.errors import ConfigError, NMMError
from megatron_nmm.train import metrics
from megatron_nmm.train.casts_plot import LOSSES, brief, draw_shares
from megatron_nmm.train.metrics import Record
from megatron_nmm.train.plots import SMOOTHED_POINTS, logarithmic, thin

COLOURS = ("#222222", "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
"""Paul Tol's bright scheme; the first run in black."""


@dataclass(frozen=True)
class Run:
    """What one run's metrics.jsonl holds."""

    name: str
    steps: list[tuple[int, float]]
    """(step, training loss)."""
    validations: list[tuple[int, float]]
    """(step, mean held-out loss)."""
    casts: list[Record]
    """Measurements of what casts lost; none of a plain run."""


def read(folder: Path) -> Run:
    """The run in ``folder``; ConfigError when there is none, or it has taken no step."""
    records = metrics.read(folder / metrics.NAME) if (folder / metrics.NAME).exists() else []
    steps = [(r["step"], r["loss"]) for r in records if r["event"] == "step" and r["loss"] is not None]
    if not steps:
        raise ConfigError(f"{folder} holds no steps in {metrics.NAME}; give the folders of finished runs")
    validations = [(r["step"], r["loss"]) for r in records if r["event"] == "validation" and r["loss"] is not None]
    return Run(folder.name, steps, validations, [r for r in records if r["event"] == "casts"])


def distance(run: Run, other: Run) -> list[tuple[int, float]]:
    """Training loss of ``run`` minus that of ``other``, at the steps of both."""
    before = dict(other.steps)
    return [(step, loss - before[step]) for step, loss in run.steps if step in before]


def worst(run: Run, loss: str) -> str:
    """The operand and product that lost most in a measured step: ``12% gradient of decoder.1.mlp.linear_fc1``."""
    found = [
        (share, operand, product)
        for reading in run.casts
        for operand, shares in reading[loss].items()
        for product, share in zip(reading["products"], shares, strict=True)
    ]
    share, operand, product = max(found, default=(0.0, "", ""))
    return f"{brief(share)} {operand} of {product}" if share else "none"


def table(runs: Sequence[Run]) -> Table:
    """One row a run."""
    out = Table("run", "steps", "training loss", "held-out loss", "worst underflow", "worst overflow")
    for run in runs:
        ending = run.steps[-max(1, len(run.steps) // 20) :]
        held_out = f"{run.validations[-1][1]:.4f}" if run.validations else "-"
        mean = sum(loss for _, loss in ending) / len(ending)
        lost = [worst(run, loss) if run.casts else "-" for loss in LOSSES]
        out.add_row(run.name, f"{run.steps[-1][0]:,}", f"{mean:.4f}", held_out, *lost)
    return out


def draw(runs: Sequence[Run], path: Path) -> None:
    """The picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cast = [run for run in runs if run.casts]
    products = max((len(run.casts[-1]["products"]) for run in cast), default=0)
    below = 1.2 + 0.22 * products if cast else 0.0
    figure = Figure(figsize=(max(14, 4 * len(cast)), 5.5 + below), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(5.5, below)) if cast else (figure, None)
    above, maps = halves
    losses, distances = above.subplots(1, 2)
    _draw_losses(losses, runs)
    _draw_distances(distances, runs)
    if maps is not None:
        _draw_maps(maps, cast)
    FigureCanvasAgg(figure).print_figure(str(path), dpi=110)


def _draw_losses(axes: Any, runs: Sequence[Run]) -> None:
    for run, colour in zip(runs, COLOURS, strict=False):
        told = f", held-out {run.validations[-1][1]:.3f}" if run.validations else ""
        points = thin(run.steps, SMOOTHED_POINTS)
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.5, label=f"{run.name}{told}")
        if run.validations:
            axes.plot(*zip(*run.validations, strict=True), "D", color=colour, markersize=5)
    axes.set(xlabel="step", ylabel="loss (nats per supervised token)", title="training loss; diamonds: held-out")
    logarithmic(axes)
    axes.legend()


def _draw_distances(axes: Any, runs: Sequence[Run]) -> None:
    first = runs[0]
    for run, colour in zip(runs[1:], COLOURS[1:], strict=False):
        points = thin(distance(run, first), SMOOTHED_POINTS // 4)
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3, label=run.name)
    axes.axhline(0.0, color=COLOURS[0], linewidth=1.0)
    axes.set(xlabel="step", ylabel="nats per supervised token", title=f"training loss minus that of {first.name}")
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_maps(figure: Any, runs: Sequence[Run]) -> None:
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    for place, (axes, run) in enumerate(zip(panels, runs, strict=True)):
        map_ = draw_shares(axes, run.casts, named=place == 0)
        axes.set_title(f"{run.name}: values that casts lose")
    figure.colorbar(map_, ax=list(panels), label="share of values", shrink=0.8)


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--output", type=Path, default=Path("precision.png"), metavar="FILE", help="the picture")
    options = parser.parse_args(argv)
    try:
        if len(options.runs) > len(COLOURS):
            raise ConfigError(f"{len(options.runs)} runs are too many for one picture; give at most {len(COLOURS)}")
        runs = [read(folder) for folder in options.runs]
        options.output.parent.mkdir(parents=True, exist_ok=True)
        draw(runs, options.output)
    except NMMError as error:
        return refuse(error)
    Console(width=160).print(table(runs))
    print(f"picture {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
