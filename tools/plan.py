"""Plan a cluster job: a recipe's legal layouts ranked by predicted step time, with memory, bubble and traffic.

    python tools/plan.py --recipe examples/navil.py:9b-s2 --gpus 256 --gpu h100
    python tools/plan.py --recipe examples/moe.py:3.354b --gpus 64 --gpu h200 --set precision.recipe=fp8_current --json

Parameters, gradients and optimizer state of a rank are exact, activations within a few percent; times are predictions
from data sheets and the efficiencies printed below the tables. Needs no GPU and loads no torch.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console

from megatron_nmm.config.arguments import add_recipe, positive
from megatron_nmm.config.overrides import apply
from megatron_nmm.config.recipe_file import run_of
from megatron_nmm.config.refusal import refuse
from megatron_nmm.errors import NMMError
from megatron_nmm.planner import report
from megatron_nmm.planner.efficiency import Shares, shares
from megatron_nmm.planner.gpus import GPUS, gpu
from megatron_nmm.planner.plan import Plan, plan


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_recipe(parser)
    parser.add_argument("--gpus", required=True, type=positive, metavar="N", help="GPUs of the job, eight a node")
    parser.add_argument("--gpu", default="h100", metavar="NAME", help=f"{', '.join(GPUS)} (default h100)")
    parser.add_argument("--best", type=positive, default=5, metavar="N", help="layouts to show (default 5)")
    parser.add_argument(
        "--efficiency",
        action="append",
        default=[],
        metavar="[NAME=]VALUE",
        help="change an assumption; without a name, those of all products; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON instead")
    return parser.parse_args(argv)


def show(planned: Plan, assumed: Shares, count: int, console: Console) -> None:
    """Tables and lines."""
    console.print(report.headline(planned), highlight=False)
    console.print(report.table(planned, count))
    console.print(report.why(planned), highlight=False)
    console.print(report.images(planned), highlight=False)
    console.print(report.modes(planned), highlight=False)
    console.print(report.links(planned, assumed))
    console.print(report.selects(planned), highlight=False, soft_wrap=True)
    for line in report.assumptions(planned, assumed):
        console.print(line, highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Plan and print."""
    options, console = arguments(argv), Console(width=160)
    try:
        assumed = shares(options.efficiency)
        run = apply(run_of(options.recipe), options.set)
        planned = plan(run, options.gpus, gpu(options.gpu), assumed)
    except NMMError as error:
        return refuse(error)
    if options.json:
        print(json.dumps(report.as_data(planned, assumed, options.best), indent=2))
    else:
        show(planned, assumed, options.best, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
