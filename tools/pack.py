"""Fills packed rows with the samples of a corpus, under a limit of tokens and one of vision patches.

Run: python tools/pack.py --corpus corpus --sequence-length 1024 --vision-patches 1024
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from megatron_nmm.config.arguments import positive
from megatron_nmm.config.refusal import refuse
from megatron_nmm.data.plan import PackSettings, plan_folder, write_plan
from megatron_nmm.data.show import SHOWN_REJECTIONS, rejections
from megatron_nmm.data.tables import read_table
from megatron_nmm.errors import NMMError


def main(argv: Sequence[str] | None = None) -> int:
    """Write a pack plan and say how full the packs are."""
    arguments = _arguments(argv)
    folder = arguments.output or plan_folder(arguments.corpus, arguments.sequence_length)
    settings = PackSettings(arguments.sequence_length, arguments.vision_patches, arguments.seed)
    try:
        with Console(stderr=True).status(f"packing {arguments.corpus}"):
            report = write_plan(arguments.corpus, folder, settings)
    except NMMError as error:
        return refuse(error)
    _summarise(folder, report)
    return 0


def _summarise(folder: Path, report: dict[str, Any]) -> None:
    """How well it went, and what does not fit."""
    print(
        f"{folder}: {report['packed']:,} samples in {report['packs']:,} packs of {report['sequence_length']} tokens, "
        f"{report['fill']:.1%} full, {report['above_lower_bound']:.2%} above the lower bound, "
        f"patches p50 {report['patches']['p50']} p99 {report['patches']['p99']}, {report['rejected']:,} rejected"
    )
    table = folder / "rejected.parquet"
    rows = read_table(table).slice(0, SHOWN_REJECTIONS).to_pylist() if report["rejected"] else []
    for line in rejections((f"{row['id']}: {row['reason']}" for row in rows), report["rejected"], str(table)):
        print(line)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder written by tools/tokenise.py")
    parser.add_argument(
        "--sequence-length", type=positive, required=True, metavar="TOKENS", help="tokens of one packed row"
    )
    parser.add_argument(
        "--vision-patches", type=positive, metavar="PATCHES", help="most vision patches in a row (default: no limit)"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses who shares a row, and the order of rows")
    parser.add_argument("--output", type=Path, metavar="PLAN", help="plan folder (default: CORPUS/plan-TOKENS)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
