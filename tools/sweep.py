"""Run a scaling study: expand it into trunks and branches, train what is missing, keep every point in a manifest.

    python tools/sweep.py --study p1 --dry-run --gpu h100 --mfu 0.35       # what it is and what it costs
    python tools/sweep.py --study laptop --output runs/scaling/laptop --at-once 2
    python tools/sweep.py --study p1 --output runs/p1 --runner slurm       # writes runs/p1/slurm/submit.sh
    python tools/sweep.py --study p1 --output runs/p1 --collect            # appends the points of runs that have ended

Started again, it goes on with what is missing. --study takes a preset's name or a Python file with a function study().
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from megatron_nmm.config.arguments import positive
from megatron_nmm.config.recipe_file import value_of
from megatron_nmm.config.refusal import INTERRUPTED, refuse
from megatron_nmm.config.values import nearest_key
from megatron_nmm.errors import ConfigError, NMMError
from megatron_nmm.planner.gpus import GPUS, gpu
from megatron_nmm.scaling import manifest
from megatron_nmm.scaling.point import Point
from megatron_nmm.scaling.sweep import local, show, slurm, work
from megatron_nmm.scaling.sweep.cost import cost
from megatron_nmm.scaling.sweep.design import Design
from megatron_nmm.scaling.sweep.expand import FILTERS, Trunk, expand, only
from megatron_nmm.scaling.sweep.presets import PRESETS

TRAINER = Path(__file__).with_name("train.py")
FAILED = 1
"""Exit code of a sweep some of whose runs failed."""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", required=True, metavar="NAME|FILE.py", help=f"{', '.join(PRESETS)}, or a file")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="of the study (default runs/scaling/NAME)")
    parser.add_argument("--dry-run", action="store_true", help="print the expanded study and its cost, then stop")
    parser.add_argument("--gpu", default="h100", metavar="NAME", help=f"of the cost: {', '.join(GPUS)} (default h100)")
    parser.add_argument("--mfu", type=float, default=0.35, metavar="SHARE", help="of its bf16 peak (default 0.35)")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"these runs alone; KEY is one of {', '.join(FILTERS)}; may be repeated",
    )
    parser.add_argument("--runner", choices=("local", "torchrun", "slurm"), default="local", help="what trains")
    parser.add_argument("--processes", type=positive, default=1, metavar="N", help="of every run (default 1)")
    parser.add_argument("--at-once", type=positive, default=1, metavar="N", help="local: trunks at a time (default 1)")
    parser.add_argument("--keep-models", action="store_true", help="local: keep the last checkpoint of every branch")
    parser.add_argument("--collect", action="store_true", help="append the points of runs that have ended, then stop")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one value of every run; may be repeated"
    )
    return parser.parse_args(argv)


def study_of(name: str) -> Design:
    """The preset of that name, or what study() of the Python file returns."""
    if name in PRESETS:
        return PRESETS[name]()
    if not name.endswith(".py"):
        raise ConfigError(
            f"no study is called {name}; the nearest is {nearest_key(name, PRESETS)}, all are {', '.join(PRESETS)}; or "
            "give a Python file with a function study()"
        )
    found = value_of(name, "study")
    if not isinstance(found, Design):
        raise ConfigError(f"study() of {name} returns {type(found).__name__} {found!r}; let it return a Design")
    return found


def show_cost(study: Design, trunks: Sequence[Trunk], options: argparse.Namespace, console: Console) -> None:
    """The expanded table, the sums, and what is read into the papers."""
    if not 0 < options.mfu <= 1:
        raise ConfigError(f"--mfu {options.mfu:g} is no share above 0 and at most 1; write e.g. --mfu 0.35")
    of = gpu(options.gpu)
    console.print(show.expanded(trunks, of.bf16, options.mfu))
    console.print(show.totals(trunks, of.name, of.bf16, options.mfu), highlight=False, soft_wrap=True)
    for reading in study.readings:
        console.print(f"- {reading}", highlight=False, soft_wrap=True, markup=False)


def train_here(trunks: Sequence[Trunk], jobs: list[work.Job], options: argparse.Namespace, console: Console) -> int:
    """Train all of ``jobs`` on this machine and tell how it goes; the exit code."""
    settings = local.Settings(options.output, TRAINER, options.processes, options.at_once, options.keep_models)
    screen = show.Screen(trunks, work.points(options.output))
    # The longest first: short ones fill the gaps at the end.
    jobs.sort(key=lambda job: -cost([job.trunk]).shared)
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def watch(state: local.State, found: list[Point]) -> None:
            screen.add(state, found)
            for point in found:
                told = " ".join(f"{kind} {loss:.4f}" for kind, loss in point.losses.items())
                line = f"{point.run}: loss {point.loss():.4f} ({told}), {point.tokens:,.0f} tokens"
                live.console.print(f"{line}; {screen.line(state)}", highlight=False, soft_wrap=True, markup=False)
            if console.is_terminal:
                live.update(screen.table(state), refresh=True)

        failures = local.sweep(jobs, settings, watch)
    for failure in failures:
        told = f"FAILED {failure.run}: {failure.why}; its log is {failure.log}"
        console.print(told, highlight=False, soft_wrap=True, markup=False)
    return FAILED if failures else 0


def write(jobs: Sequence[work.Job], options: argparse.Namespace, argv: Sequence[str], console: Console) -> None:
    """The files of the other runners, and how to use them."""
    for job in jobs:
        work.make_ready(job)
    collect = ["python", "tools/sweep.py", *argv, "--collect"]
    if options.runner == "slurm":
        file = slurm.write_slurm(jobs, options.output, collect)
        console.print(f"submit {len(jobs)} trunks and their branches: {file}", highlight=False, soft_wrap=True)
    else:
        file = slurm.write_torchrun(jobs, options.output, options.processes, collect)
        console.print(f"{len(jobs)} command lines, one a trunk: {file}", highlight=False, soft_wrap=True)


def run(options: argparse.Namespace, argv: Sequence[str], console: Console) -> int:
    """Expand, then show, train, write or collect."""
    study = study_of(options.study)
    options.output = options.output or Path("runs/scaling") / study.name
    trunks = only(expand(study, options.output, options.set), options.only)
    if options.dry_run:
        show_cost(study, trunks, options, console)
        return 0
    work.check_all(trunks, options.processes)
    with work.claim(trunks, options.output):
        for fault in manifest.read(options.output).faults if (options.output / manifest.NAME).exists() else ():
            console.print(f"manifest: {fault}", highlight=False, soft_wrap=True, markup=False)
        code = 0
        for job in work.jobs(trunks, options.output) if options.collect or options.runner != "local" else ():
            found, faults = work.collect(job, options.output)
            for name, why in faults.items():
                code = FAILED
                console.print(f"FAILED {name}: {why}", highlight=False, soft_wrap=True, markup=False)
            for point in found:
                console.print(f"{point.run}: loss {point.loss():.4f}", highlight=False, markup=False)
        jobs = work.jobs(trunks, options.output)
        if jobs and not options.collect and options.runner == "local":
            code = train_here(trunks, jobs, options, console)
        elif jobs and not options.collect:
            write(jobs, options, argv, console)
    missing = sum(len(job.branches) for job in work.jobs(trunks, options.output))
    state = f"{missing} of its points are missing" if missing else "complete"
    console.print(f"study {study.name}: {state}; {options.output / manifest.NAME}", highlight=False, soft_wrap=True)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run a study."""
    argv = sys.argv[1:] if argv is None else argv
    options, console = arguments(argv), Console(width=160 if not sys.stdout.isatty() else None)
    try:
        return run(options, argv, console)
    except NMMError as error:
        return refuse(error)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
