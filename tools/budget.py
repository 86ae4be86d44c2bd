"""Plan the next model: size, data, fusion and experts for a budget, or what to train for given data or serving.

    python tools/budget.py --flops 1e22
    python tools/budget.py --gpus 256 --gpu h100 --days 14 --mfu 0.4 --price 2.5 --fit runs/scaling/fit.json
    python tools/budget.py --flops 1e22 --sources caption=3e11 interleaved=2e11:2 text=4e12
    python tools/budget.py --tokens 2e11
    python tools/budget.py --parameters 2e9
    python tools/budget.py --latency-flops 4e9

The law comes from a study of one's own (tools/fit.py) or from the papers (--fit paper), whose answer stands beside it.
FLOPs are those of the laws, 6 N D; --latency-flops are those of one generated token, 2 N. Needs no GPU, loads no torch.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from megatron_nmm.config.arguments import finite_above_zero, positive
from megatron_nmm.config.refusal import refuse
from megatron_nmm.data.mixture_presets import weights
from megatron_nmm.errors import ConfigError, NMMError
from megatron_nmm.planner.gpus import GPUS, gpu
from megatron_nmm.scaling.law import Fitted
from megatron_nmm.scaling.money import Machine
from megatron_nmm.scaling.papers.laws import fits as papers_fits
from megatron_nmm.scaling.plan import report
from megatron_nmm.scaling.plan.budget import (
    Option,
    Trained,
    for_flops,
    for_parameters,
    for_tokens,
    overtrained,
    trained,
)
from megatron_nmm.scaling.plan.choose import choose
from megatron_nmm.scaling.plan.optimum import tokens_for
from megatron_nmm.scaling.plan.repeats import Readings, Source, read, readings
from megatron_nmm.scaling.words import amount, family, power

QUESTIONS = ("tokens", "parameters", "latency_flops")
WIDTH = 180


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    number = finite_above_zero
    parser.add_argument("--flops", type=number, metavar="C", help="budget: training FLOPs, 6 N D")
    parser.add_argument("--gpus", type=positive, metavar="N", help="GPUs; a budget together with --days")
    parser.add_argument("--days", type=number, help="days that --gpus compute")
    parser.add_argument("--gpu", default="h100", metavar="NAME", help=f"{', '.join(GPUS)} (default h100)")
    parser.add_argument("--mfu", type=number, default=0.4, metavar="PART", help="of its bf16 peak (default 0.4)")
    parser.add_argument("--tokens", type=number, metavar="D", help="given data: which model to train on it")
    parser.add_argument("--parameters", type=number, metavar="N", help="given a serving size: how long to train it")
    parser.add_argument("--latency-flops", type=number, metavar="F", help="the same by FLOPs of a generated token, 2 N")
    parser.add_argument("--fit", default="paper", metavar="FILE", help="fit.json of tools/fit.py, or paper (default)")
    parser.add_argument("--family", action="append", default=[], metavar="NAME", help="only this one; repeatable")
    parser.add_argument("--kind", default="avg", metavar="NAME", help="loss to lower: avg (default) or a kind of data")
    parser.add_argument("--mixture", metavar="NAME", help="of the fit; its shares are those of --sources, too")
    parser.add_argument(
        "--sources", nargs="+", default=[], metavar="NAME=TOKENS[:EPOCHS]", help="data there is (default 4 epochs each)"
    )
    parser.add_argument(
        "--weight", action="append", default=[], metavar="NAME=SHARE", help="of a source, instead of the mixture's"
    )
    parser.add_argument("--price", type=number, help="of a GPU hour")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead")
    return parser.parse_args(argv)


def fits_of(options: argparse.Namespace) -> tuple[Fitted, ...]:
    """The fit of each family that was asked for; ConfigError or DataError where it cannot be had."""
    if options.fit == "paper":
        every = papers_fits()
    else:
        from megatron_nmm.scaling.fit.file import read as read_fits

        every = tuple(read_fits(Path(options.fit)))
    return choose(every, options.family, options.kind, options.mixture)


def machine_of(options: argparse.Namespace) -> Machine:
    """The GPUs; ConfigError for an unknown kind or an impossible MFU."""
    if options.mfu > 1:
        raise ConfigError(f"--mfu {options.mfu:g} is more than the whole peak; give a part of it, e.g. 0.4")
    chosen = gpu(options.gpu)
    return Machine(chosen.name, chosen.bf16, options.mfu, options.gpus, options.price)


def budget_of(options: argparse.Namespace, machine: Machine) -> float | None:
    """FLOPs of the budget; None where a question without one was asked. ConfigError for none at all, or several."""
    asked = [name for name in QUESTIONS if getattr(options, name) is not None]
    if options.days is not None and options.gpus is None:
        raise ConfigError(f"--days {options.days:g} is no budget without --gpus; add it, e.g. --gpus 256")
    given = ["--flops"] * (options.flops is not None) + ["--gpus and --days"] * (options.days is not None)
    if len(given) > 1 or len(asked) > 1 or ("tokens" in asked and given):
        words = [*given, *("--" + name.replace("_", "-") for name in asked)]
        raise ConfigError(f"{len(words)} budgets at once: {', '.join(words)}; give one of them")
    if not given and not asked:
        raise ConfigError(
            "no budget; give --flops, or --gpus and --days, or ask by --tokens, --parameters or --latency-flops"
        )
    return options.flops if options.days is None else machine.flops(options.days)


def sources_of(options: argparse.Namespace, fits: Sequence[Fitted], tokens: float) -> Readings | None:
    """What ``tokens`` read of the sources; None without any. ConfigError where sources and shares do not match."""
    if not options.sources:
        if options.weight:
            raise ConfigError(f"--weight {options.weight[0]} without --sources; say how many tokens there are")
        return None
    found = [read(text) for text in options.sources]
    return readings(found, _shares(options.weight, found, fits[0].mixture), tokens)


def _shares(texts: Sequence[str], found: Sequence[Source], mixture: str) -> dict[str, float]:
    names = [source.name for source in found]
    if not texts:
        return weights(mixture, dict.fromkeys(names, "..."))
    shares = {one.name: one.tokens for one in (read(text) for text in texts)}
    if set(shares) != set(names):
        raise ConfigError(f"--weight names {', '.join(shares)}, --sources {', '.join(names)}; weigh each source once")
    return shares


@dataclass(frozen=True)
class Answer:
    """Everything a question comes to."""

    question: str
    options: tuple[Option, ...]
    """The best run of each family."""
    served: Mapping[str, Sequence[Trained]]
    """Of a given size, by family; empty for other questions."""
    at_equal_flops: bool
    """Whether the losses of families may be compared."""
    machine: Machine
    reader: str
    """The family whose run reads the sources: the best, or the first where there is nothing to compare."""
    sources: Readings | None

    @property
    def flops(self) -> dict[str, float]:
        """What each family's run costs."""
        spent = {option.family: option.flops.value for option in self.options}
        return spent | {name: rows[0].flops for name, rows in self.served.items() if len(rows) == 1}


def plan(options: argparse.Namespace) -> Answer:
    """Ask the fits."""
    machine = machine_of(options)
    flops = budget_of(options, machine)
    fits = fits_of(options)
    size = options.parameters or (options.latency_flops and options.latency_flops / 2)
    served: dict[str, Sequence[Trained]] = {}
    if size:
        best = [for_parameters(fitted, size) for fitted in fits]
        served = {one.family: [_for_budget(one, size, flops)] if flops else overtrained(one, size) for one in fits}
    else:
        best = [for_flops(one, flops) if flops else for_tokens(one, options.tokens) for one in fits]
    reader = min(best, key=lambda option: option.ranked.value) if flops and not size else best[0]
    tokens = served[reader.family][0].tokens if size and flops else reader.tokens.value
    return Answer(
        _question(options, flops, size),
        tuple(best),
        served,
        bool(flops) and not size,
        machine,
        reader.family,
        sources_of(options, fits, tokens),
    )


def _for_budget(fitted: Fitted, size: float, flops: float) -> Trained:
    return trained(fitted, size, tokens_for(fitted, size, flops))


def _question(options: argparse.Namespace, flops: float | None, size: float | None) -> str:
    """The title of the answer."""
    if size:
        return f"the runs for which N = {amount(size)} is the best size"
    if flops is None:
        return f"the runs for which D = {amount(options.tokens)} tokens are best"
    words = f", {options.gpus:,} x {options.gpu} for {options.days:g} days" if options.days else ""
    return f"the best runs for {power(flops)} FLOPs{words}"


def show(found: Answer, console: Console) -> None:
    """Tables and lines."""
    console.print(report.best_runs(found.options, found.question, found.at_equal_flops))
    for name, rows in found.served.items():
        console.print(report.served(rows, f"{family(name)} of this size: how long to train it"))
    if found.at_equal_flops:
        for line in (report.choice(found.options), report.experts(found.options)):
            console.print(line, highlight=False)
    else:
        console.print("These runs differ in cost, so their losses choose no family; ask with --flops.", highlight=False)
    if not found.served:
        console.print(report.presets(found.options))
    console.print(report.money(found.flops, found.machine))
    if found.sources:
        console.print(report.sources(found.sources, family(found.reader)))
        console.print(found.sources.remedy or "No source is read more often than it may.", highlight=False)
    console.print(report.encoder(report.with_encoder(found.options)), highlight=False)
    for line in report.approximations(found.options):
        console.print(line, highlight=False)
    for line in report.warnings(found.options):
        console.print(f"[bold]warning[/] {escape(line)}", highlight=False)


def as_data(found: Answer) -> dict[str, Any]:
    """For --json."""
    return {
        "question": found.question,
        "families": [report.as_data(option, found.machine, found.flops[option.family]) for option in found.options],
        "choice": report.choice(found.options) if found.at_equal_flops else None,
        "experts": report.experts(found.options) if found.at_equal_flops else None,
        "served": {name: [report.trained_data(row) for row in rows] for name, rows in found.served.items()},
        "sources": report.sources_data(found.sources) if found.sources else None,
        "approximations": report.approximations(found.options),
        "warnings": list(report.warnings(found.options)),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Plan and print."""
    options = arguments(argv)
    try:
        found = plan(options)
    except NMMError as error:
        return refuse(error)
    if options.json:
        print(json.dumps(as_data(found), indent=2))
    else:
        show(found, Console(width=WIDTH))
    return 0


if __name__ == "__main__":
    sys.exit(main())
