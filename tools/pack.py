"""Fills packed rows with the samples of a corpus, under a limit of tokens and one of vision patches.

Run: python tools/pack.py --corpus corpus --sequence-length 1024 --vision-patches 1024
     python tools/pack.py --corpus corpus --sequence-length 2048 8192 --vision-patches 1024 4096

Each sequence length gives a plan of its own, with a report and a picture of it (histogram.png).
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from megatron_nmm.config.arguments import positive
from megatron_nmm.config.refusal import INTERRUPTED, refuse
from megatron_nmm.data.pack_plot import draw_plan
from megatron_nmm.data.plan import PICTURE, PackSettings, plan_folder, write_plans
from megatron_nmm.data.plan_input import Tell
from megatron_nmm.data.show import SHOWN_REJECTIONS, rejections
from megatron_nmm.data.tables import read_table
from megatron_nmm.errors import NMMError

MEANING = (
    "above bound: packs over the larger of ceil(tokens / limit) and ceil(patches / limit); above proved: over what no "
    "packing can be below"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Write pack plans and say how full the packs are."""
    arguments = _arguments(argv)
    plans = _plans(arguments)
    try:
        with _progress(Console(stderr=True)) as tell:
            reports = write_plans(arguments.corpus, plans, tell, draw_plan)
    except NMMError as error:
        return refuse(error)
    except KeyboardInterrupt:
        print("interrupted; plans that were there are as they were, run the command again", file=sys.stderr)
        return INTERRUPTED
    _summarise(reports)
    return 0


def _plans(arguments: argparse.Namespace) -> dict[Path, PackSettings]:
    """The folder and settings of each plan asked for."""
    lengths, patches = arguments.sequence_length, arguments.vision_patches or [None]
    patches = patches * len(lengths) if len(patches) == 1 else patches
    return {
        arguments.output or plan_folder(arguments.corpus, length): PackSettings(length, most, arguments.seed)
        for length, most in zip(lengths, patches, strict=True)
    }


@contextmanager
def _progress(console: Console) -> Iterator[Tell]:
    """One bar with the time left for each step."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        yield tell


def _summarise(reports: Mapping[Path, dict[str, Any]]) -> None:
    """How well it went, and what does not fit."""
    table = Table("tokens", "patches", "samples", "packs", "full", "above bound", "above proved")
    table.add_column("samples/pack\np50, p99")
    table.add_column("patches/pack\np50, p99")
    for report in reports.values():
        samples, patches = report["samples_per_pack"], report["patches"]
        table.add_row(
            f"{report['sequence_length']:,}",
            f"{report['vision_patches']:,}" if report["vision_patches"] else "no limit",
            f"{report['packed']:,}",
            f"{report['packs']:,}",
            f"{report['fill']:.2%}",
            f"{report['above_lower_bound']:.2%}",
            f"{report['above_proved_bound']:.2%}",
            f"{samples['p50']:,}, {samples['p99']:,}",
            f"{patches['p50']:,}, {patches['p99']:,}",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(MEANING)
    for folder, report in reports.items():
        print(f"{folder}: {report['rejected']:,} rejected, picture {folder / PICTURE}")
        path = folder / "rejected.parquet"
        rows = read_table(path).slice(0, SHOWN_REJECTIONS).to_pylist() if report["rejected"] else []
        for line in rejections((f"{row['id']}: {row['reason']}" for row in rows), report["rejected"], str(path)):
            print(line)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder written by tools/tokenise.py")
    parser.add_argument(
        "--sequence-length", type=positive, nargs="+", required=True, metavar="TOKENS", help="tokens of one packed row"
    )
    parser.add_argument(
        "--vision-patches",
        type=positive,
        nargs="+",
        metavar="PATCHES",
        help="most vision patches in a row, one number or one per sequence length (default: no limit)",
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses who shares a row, and the order of rows")
    parser.add_argument(
        "--output", type=Path, metavar="PLAN", help="folder of the only plan (default: CORPUS/plan-TOKENS)"
    )
    arguments = parser.parse_args(argv)
    lengths, patches = arguments.sequence_length, arguments.vision_patches
    if len(set(lengths)) < len(lengths):
        parser.error("--sequence-length names a length twice; name each once")
    if patches and len(patches) not in (1, len(lengths)):
        parser.error(f"--vision-patches has {len(patches)} numbers for {len(lengths)} lengths; give one or one each")
    if arguments.output and len(lengths) > 1:
        parser.error("--output is for one --sequence-length; leave it out, every length has its own folder")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
