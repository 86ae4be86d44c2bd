"""Fit the scaling law of a study, or check the papers' own numbers.

    python tools/fit.py --study runs/study
    python tools/fit.py --study runs/study/manifest.jsonl --family early --kind avg --bootstrap 1000
    python tools/fit.py --study paper
    python tools/fit.py --prove-intervals 100

Every family, mixture, number of experts and kind of data is fitted for itself: L = E + A / N^alpha + B / D^beta, with
95 % intervals, exponents two ways, the frontier, and warnings where the runs do not tell. The fits go into fit.json
beside the manifest. ``--study paper`` prints each published number that follows from others beside what follows.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from megatron_nmm.config.arguments import positive
from megatron_nmm.config.refusal import refuse
from megatron_nmm.errors import ConfigError, DataError, NMMError
from megatron_nmm.scaling import manifest
from megatron_nmm.scaling.fit import coverage
from megatron_nmm.scaling.fit import file as fit_file
from megatron_nmm.scaling.fit import report as fit_report
from megatron_nmm.scaling.fit import study as fit_study
from megatron_nmm.scaling.fit.one import Report
from megatron_nmm.scaling.fit.study import Choice, Job
from megatron_nmm.scaling.papers import fits as paper_fits
from megatron_nmm.scaling.papers import navil as paper_navil
from megatron_nmm.scaling.papers import published
from megatron_nmm.scaling.papers import tables as paper_tables
from megatron_nmm.scaling.papers import verdicts as paper_verdicts

PAPER = "paper"
WIDTH = 100
FAULTS_SHOWN = 10


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--study", metavar="FOLDER", help=f"folder with {manifest.NAME}, that file, or {PAPER!r}")
    what.add_argument(
        "--prove-intervals", type=positive, metavar="TRIALS", help="count how often intervals hold a known law's truth"
    )
    parser.add_argument("--family", metavar="NAME", help="this one only (default: each for itself)")
    parser.add_argument("--mixture", metavar="C-I-T", help="this one only")
    parser.add_argument("--kind", metavar="NAME", help="this kind of held-out data only, or avg")
    parser.add_argument("--experts", type=positive, metavar="N", help="models with N experts only")
    parser.add_argument("--hold-out", type=positive, default=1, metavar="N", help="largest sizes foretold (default 1)")
    parser.add_argument("--above", type=float, metavar="FLOPS", help="cheaper runs are no part of the frontier")
    parser.add_argument("--bootstrap", type=positive, default=100, metavar="N", help="resamples (default 100)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the resamples (default 0)")
    return parser.parse_args(argv)


def progress(console: Console) -> Progress:
    """A line with what is going on and how long it will take; gone when done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def fit(options: argparse.Namespace, console: Console) -> None:
    """Fit a manifest, print, write fit.json."""
    began = time.perf_counter()
    read = manifest.read(Path(options.study))
    for fault in read.faults[:FAULTS_SHOWN]:
        console.print(f"[yellow]left out[/] {fault}", highlight=False)
    if len(read.faults) > FAULTS_SHOWN:
        console.print(f"[yellow]left out[/] {len(read.faults) - FAULTS_SHOWN} more lines", highlight=False)
    choice = Choice(
        options.family,
        options.mixture,
        options.kind,
        options.experts,
        options.hold_out,
        options.bootstrap,
        options.seed,
        options.above,
    )
    jobs, left_out = fit_study.jobs(read.points, choice)
    for line in left_out:
        console.print(f"[yellow]not fitted[/] {line}", highlight=False)
    with progress(console) as bar:
        task = bar.add_task("", total=len(jobs) * (options.bootstrap + 1))

        def tell(name: str, stage: str, done: int, _: int) -> None:
            bar.update(task, description=f"{name}: {stage}", advance=1 if done else 0)

        made = list(fit_study.make(jobs, choice, tell))
    seconds = time.perf_counter() - began
    show(made, read, choice, console)
    target = read.path.with_name(fit_file.NAME)
    try:
        fit_file.write(target, [report.fitted for _, report in made])
    except OSError as fault:
        raise DataError(f"{target} cannot be written ({fault}); free space or make the folder writable") from fault
    console.print(
        f"{len(made)} fits of {len(read.points)} runs with {options.bootstrap} resamples each took {seconds:.1f} s; "
        f"written to {target}",
        highlight=False,
    )


def show(made: Sequence[tuple[Job, Report]], read: manifest.Manifest, choice: Choice, console: Console) -> None:
    """Each group's first kind in full, the others a line each, then encoders and sparsity."""
    seen: set[str] = set()
    rest = []
    for job, report in made:
        if job.name in seen:
            rest.append((job, report))
        else:
            console.print(fit_report.whole(job, report), highlight=False)
        seen.add(job.name)
    if rest:
        console.print(fit_report.short(rest))
    for found in fit_study.encoders(read.points, choice):
        console.print(fit_report.encoders(found))
    for name, law in fit_study.sparse_laws(read.points, choice):
        console.print(fit_report.sparse_law(name, law))


def check_papers(console: Console) -> None:
    """Print every published number that can be checked, the contradictions, and what cannot be checked."""
    rows = 0
    for part in (paper_tables, paper_fits, paper_navil):
        for section in part.sections():
            console.print(fit_report.section(section), highlight=False)
            rows += len(section.rows)
    console.print(fit_report.verdicts(list(paper_verdicts.verdicts())), highlight=False)
    console.print("[dim]bold: the reading next to the refit[/]")
    console.print("\n[bold]what cannot be checked[/]")
    for what, why in published.UNCHECKED.items():
        console.print(f"{what}: {why}", highlight=False)
    console.print(f"\n{rows} numbers checked", highlight=False)


def prove(trials: int, options: argparse.Namespace, console: Console) -> None:
    """Print how often the intervals hold the truth."""
    with progress(console) as bar:
        task = bar.add_task("trials", total=trials)
        held = coverage.prove(
            trials, options.bootstrap, options.seed, tell=lambda done, _: bar.update(task, completed=done)
        )
    told = ", ".join(f"{name} {hits}" for name, hits in held.items())
    console.print(
        f"95 % intervals of {options.bootstrap} resamples hold the truth of Table 12's law with {coverage.NOISE:.1%} "
        f"noise, in {trials} trials: {told}",
        highlight=False,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Fit, check or prove."""
    options, console = arguments(argv), Console(width=WIDTH)
    try:
        _needs_scipy()
        if options.prove_intervals:
            prove(options.prove_intervals, options, console)
        elif options.study == PAPER:
            check_papers(console)
        else:
            fit(options, console)
    except NMMError as error:
        return refuse(error)
    return 0


def _needs_scipy() -> None:
    try:
        import scipy.optimize  # noqa: F401
    except ImportError:
        raise ConfigError("fitting needs scipy: NMM_EXTRAS=scaling source tools/setup_env.sh") from None


if __name__ == "__main__":
    sys.exit(main())
