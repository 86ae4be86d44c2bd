"""Prove a recipe's parallel layouts: each must give the loss and every gradient of one process.

    python tools/verify_parallel.py --recipe examples/digits.py
    python tools/verify_parallel.py --recipe examples/moe.py --tensors       # how far each tensor is off at most

The recipe is shrunk to a toy of the same structure in fp32 and run over real collectives on this machine's CPU.
Exits 1 when a layout is off; ``--inject-fault`` leaves out one collective to show that it would be noticed.
"""

import argparse
import sys
import time

from rich.console import Console
from rich.progress import track
from rich.table import Table

from megatron_nmm.config.arguments import positive
from megatron_nmm.config.recipe_file import run_of
from megatron_nmm.config.refusal import refuse
from megatron_nmm.errors import ConfigError, NMMError
from megatron_nmm.verify import compare, layouts
from megatron_nmm.verify.faults import FAULTS
from megatron_nmm.verify.workers import WorkerPool


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, metavar="FILE", help="Python file with a function recipe()")
    parser.add_argument(
        "--processes", type=positive, default=4, metavar="N", help="largest layout to try (default 4, at least 2)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-5,
        metavar="ERROR",
        help="largest relative error per tensor (default 1e-5)",
    )
    parser.add_argument("--tensors", action="store_true", help="also print the worst layout of every tensor")
    parser.add_argument("--inject-fault", choices=sorted(FAULTS), help="leave out one collective; must end red")
    return parser.parse_args()


def comparisons(options: argparse.Namespace, console: Console) -> list[compare.Comparison]:
    """Every legal layout against one process; ConfigError when there is none."""
    run = layouts.toy(run_of(options.recipe))
    legal = list(layouts.legal(run, options.processes))
    if not legal:
        raise ConfigError(f"no layout has at most --processes {options.processes}; use 2, or 4 to try all of them")
    with WorkerPool(options.processes) as pool:
        state = compare.initial_state(pool, run)
        reference = compare.reference_step(pool, run, state)
        steps = track(legal, description="layouts", console=console, transient=True)
        return [
            compare.compare(reference, compare.step(pool, changed, layout, state, options.inject_fault), layout)
            for layout, changed in steps
        ]


def table(results: list[compare.Comparison], tolerance: float) -> Table:
    """One row a layout."""
    out = Table("layout", "processes", "loss error", "worst gradient error", "in tensor", "verdict")
    for result in results:
        name, error = result.worst
        verdict = "[green]equal[/]" if result.passes(tolerance) else "[red]DIFFERS[/]"
        row = (result.layout.name, str(result.layout.processes), f"{result.loss_error:.1e}", f"{error:.1e}", name)
        out.add_row(*row, verdict)
    return out


def tensor_table(results: list[compare.Comparison], tolerance: float) -> Table:
    """One row a tensor: its largest error over all layouts and where, the worst first."""
    out = Table("gradient of", "worst error", "in layout", "verdict")
    worst = [
        max((result.errors.get(name, float("inf")), result.layout.name, name) for result in results)
        for name in sorted({name for result in results for name in result.errors})
    ]
    for error, layout, name in sorted(worst, key=lambda row: -row[0]):
        out.add_row(name, f"{error:.1e}", layout, "[green]equal[/]" if error <= tolerance else "[red]DIFFERS[/]")
    return out


def main() -> int:
    """Run, print, and say with the exit code whether all layouts agree."""
    options, console, start = arguments(), Console(width=160), time.monotonic()
    try:
        results = comparisons(options, console)
    except NMMError as error:
        return refuse(error)
    console.print(table(results, options.tolerance))
    if options.tensors:
        console.print(tensor_table(results, options.tolerance))
    wrong = [result.layout.name for result in results if not result.passes(options.tolerance)]
    tensors = len(results[0].errors)
    seconds = time.monotonic() - start
    if wrong:
        console.print(f"[red]{len(wrong)} of {len(results)} layouts differ from one process: {', '.join(wrong)}[/]")
        return 1
    console.print(
        f"{len(results)} layouts equal one process: the loss and all {tensors} gradients within "
        f"{options.tolerance:g} relative (fp32, {seconds:.0f} s)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
