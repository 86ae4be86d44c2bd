"""Compare models at equal training FLOPs: early against late fusion, with and without experts, or any recipes.

    python tools/compare.py early=examples/early_fusion.py late=examples/late_fusion.py \
        "experts=examples/early_fusion.py model.modality_experts=all" --output runs/compare

Each contender is NAME=RECIPE, optionally followed by KEY=VALUE changes. The budget is what the first one's own steps
cost (or --flops); every other takes as many steps as cost the same, counted exactly from its first batches. They train
one after the other with torchrun; what they reached, their memory and their time per step are printed as a table and
drawn into OUTPUT/compare.png. ``--after`` runs a command for each finished run, {folder} standing for it.
"""

import argparse
import itertools
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from megatron_nmm.config import RunConfig
from megatron_nmm.config.arguments import positive
from megatron_nmm.config.overrides import apply
from megatron_nmm.config.recipe_file import run_of
from megatron_nmm.config.refusal import refuse
from megatron_nmm.errors import ConfigError, NMMError
from megatron_nmm.train import metrics
from megatron_nmm.train.metrics import Record

MEASURED_STEPS = 4
"""Global batches whose FLOPs are averaged."""
VALIDATIONS = 8
"""Points of every curve."""
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
"""Paul Tol's bright scheme."""


@dataclass(frozen=True)
class Contender:
    """One model in the comparison."""

    name: str
    recipe: str
    run: RunConfig
    step_flops: float
    """Forward and backward of one global batch."""

    @property
    def flops(self) -> float:
        """Of the whole run."""
        return self.run.steps * self.step_flops


@dataclass(frozen=True)
class Outcome:
    """What a contender's finished run shows."""

    contender: Contender
    curve: tuple[tuple[float, float], ...]
    """(FLOPs spent, mean held-out loss) at each validation."""
    sources: dict[str, float]
    """Held-out loss of each source at the end."""
    step_s: float
    """Median seconds of a step."""
    memory: int
    """Bytes of the fullest process."""
    trained_s: float
    """Seconds of all steps."""


def contender(text: str, output: Path) -> Contender:
    """The contender that ``text`` names; ConfigError when it is not NAME=RECIPE KEY=VALUE..."""
    name_and_recipe, *changes = shlex.split(text)
    name, equals, recipe = name_and_recipe.partition("=")
    if not (name and equals and recipe):
        raise ConfigError(f"contender {text!r} has no name or no recipe; write NAME=RECIPE.py, e.g. early=recipe.py")
    run = apply(run_of(recipe), changes)
    run = replace(run, name=name, folder=str(output / name))
    return Contender(name, recipe, run, flops_of_a_step(run))


def flops_of_a_step(run: RunConfig) -> float:
    """Mean over the run's first global batches."""
    from megatron_nmm.data.stream import stream
    from megatron_nmm.train.meter import batch_flops

    one = replace(run, data=replace(run.data, microbatch=run.data.global_batch))
    with stream(one, 0, 1) as data:
        return (
            sum(batch_flops(run.model, data.next_step(), run.optim.rates) for _ in range(MEASURED_STEPS))
            / MEASURED_STEPS
        )


def matched(contenders: Sequence[Contender], budget: float) -> list[Contender]:
    """The same contenders with the steps that cost ``budget``, validated equally often."""
    out = []
    for one in contenders:
        steps = max(1, round(budget / one.step_flops))
        evaluate = replace(one.run.evaluate, every=max(1, steps // VALIDATIONS))
        out.append(replace(one, run=replace(one.run, steps=steps, evaluate=evaluate)))
    return out


def train(one: Contender, processes: int) -> None:
    """Run it under torchrun, or continue it where it was stopped; ConfigError when it fails."""
    from megatron_nmm.config.io import save

    file = Path(one.run.folder) / "compare.json"
    save(one.run, file)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    if code := subprocess.run([*launcher, one.recipe, "--config", str(file)], check=False).returncode:
        raise ConfigError(f"{one.name} ended with exit code {code}; its own message stands above")


def outcome(one: Contender) -> Outcome:
    """Read the run's metrics."""
    records = metrics.read(Path(one.run.folder) / metrics.NAME)
    steps = [record for record in records if record["event"] == "step"]
    validations = [record for record in records if record["event"] == "validation" and record["loss"] is not None]
    if not steps or not validations:
        raise ConfigError(f"{one.run.folder} holds no validation; give the recipe evaluate.sources")
    return Outcome(
        one,
        tuple((record["step"] * one.step_flops, record["loss"]) for record in validations),
        {name: part["loss"] for name, part in validations[-1]["sources"].items()},
        median(_per_step(steps)),
        max(record["memory_bytes"] for record in steps),
        sum(record["seconds"] for record in steps),
    )


def _per_step(steps: Sequence[Record]) -> list[float]:
    """Seconds of a step in each interval but the first, which holds the start."""
    numbers = [record["step"] for record in steps]
    taken = [later - earlier for earlier, later in itertools.pairwise(numbers)]
    return [record["seconds"] / count for record, count in zip(steps[1:], taken, strict=True)]


def table(outcomes: Sequence[Outcome]) -> Table:
    """One row a contender."""
    sources = list(outcomes[0].sources)
    columns = ("model", "steps", "FLOPs", "step", "trained", "memory/process", *sources, "mean loss")
    out = Table(*columns, title="held-out loss at equal training FLOPs (nats per supervised token)")
    for one in outcomes:
        out.add_row(
            one.contender.name,
            f"{one.contender.run.steps:,}",
            f"{one.contender.flops:.3g}",
            f"{1000 * one.step_s:,.0f} ms",
            f"{one.trained_s:,.0f} s",
            f"{one.memory / 1e6:,.0f} MB",
            *(f"{one.sources[source]:.3f}" for source in sources),
            f"{one.curve[-1][1]:.3f}",
        )
    return out


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Held-out loss against FLOPs, and beside it seconds per step and memory of each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    loss, seconds, memory = figure.subplots(1, 3, width_ratios=(3, 1, 1))
    names = [one.contender.name for one in outcomes]
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(outcomes))]
    for one, colour in zip(outcomes, colours, strict=True):
        loss.plot(
            *zip(*one.curve, strict=True), "o-", color=colour, label=f"{one.contender.name} {one.curve[-1][1]:.3f}"
        )
    loss.set(xlabel="training FLOPs", ylabel="mean held-out loss (nats per supervised token)", yscale="log")
    loss.set_title("held-out loss at equal FLOPs")
    loss.grid(alpha=0.3, which="both")
    loss.legend()
    for axes, values, title in (
        (seconds, [one.step_s * 1000 for one in outcomes], "ms per step"),
        (memory, [one.memory / 1e6 for one in outcomes], "MB per process"),
    ):
        bars = axes.bar(names, values, color=colours)
        axes.bar_label(bars, fmt="{:,.0f}")
        axes.set_title(title)
        axes.tick_params(axis="x", rotation=30)
        axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure).print_figure(str(path), dpi=120)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contenders", nargs="+", metavar="NAME=RECIPE", help="a model to compare")
    parser.add_argument("--output", type=Path, default=Path("runs/compare"), metavar="FOLDER", help="where runs go")
    parser.add_argument("--processes", type=positive, default=2, metavar="N", help="of torchrun (default 2)")
    parser.add_argument("--flops", type=float, metavar="C", help="budget (default: what the first one's steps cost)")
    parser.add_argument("--after", metavar="COMMAND", help="run for each finished run; {folder} stands for its folder")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Count, match, train, tell."""
    options, console = arguments(argv), Console(width=160)
    try:
        found = [contender(text, options.output) for text in options.contenders]
        budget = options.flops or found[0].flops
        outcomes = []
        for one in matched(found, budget):
            console.print(f"[bold]{one.name}[/]: {one.run.steps:,} steps of {one.step_flops:.3g} FLOPs")
            train(one, options.processes)
            outcomes.append(outcome(one))
            if options.after:
                subprocess.run(shlex.split(options.after.format(folder=one.run.folder)), check=True)
        draw(outcomes, options.output / "compare.png")
    except NMMError as error:
        return refuse(error)
    console.print(table(outcomes))
    summary = {
        one.contender.name: {"flops": one.contender.flops, "loss": one.curve[-1][1], **vars(one)} for one in outcomes
    }
    for row in summary.values():
        del row["contender"]
    (options.output / "compare.json").write_text(json.dumps(summary, indent=2) + "\n")
    console.print(f"picture {options.output / 'compare.png'}, figures {options.output / 'compare.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
