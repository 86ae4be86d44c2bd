"""Take any rank's training step of a cluster job on this machine: its groups, shard, memory, traffic and faults.

    python tools/dry_run.py --recipe examples/navil.py:9b-s2 --world 1024 --rank 517 \\
        --set parallel.tensor=8 --set parallel.sequence=true --set parallel.pipeline=4
    python tools/dry_run.py --recipe examples/moe.py:1.627b --world 256 --all --json dry_run.json

Tensors have shapes and no data, collectives move nothing, everything else is the code of the run: forward, backward and
optimizer. Exits 1 when a rank has a fault: a host tensor in an operation of the device, a wait for the device that is
not planned, more memory than ``--memory``.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

from megatron_nmm.config.arguments import add_recipe, positive
from megatron_nmm.config.check import require
from megatron_nmm.config.overrides import apply
from megatron_nmm.config.recipe_file import run_of
from megatron_nmm.config.refusal import refuse
from megatron_nmm.config.schema import RunConfig
from megatron_nmm.errors import ConfigError, NMMError

if TYPE_CHECKING:
    from megatron_nmm.dry_run.report import JobReport, RankReport


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_recipe(parser)
    parser.add_argument("--world", required=True, type=positive, metavar="N", help="ranks of the job")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--rank", default="0", metavar="RANKS", help="such as 517 or 0-7,512 (default 0)")
    which.add_argument("--all", action="store_true", help="one rank of every role, which stands for all alike")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="what the ranks are (default gpu)")
    parser.add_argument("--without-apex", action="store_true", help="GPUs without apex's fused weight gradient")
    parser.add_argument("--memory", type=float, metavar="GIB", help="memory of a rank; more than that is a fault")
    parser.add_argument("--json", metavar="FILE", help="write everything that was found out")
    return parser.parse_args()


def wanted(text: str) -> list[int]:
    """The ranks of ``0-7,512``; ConfigError where it is no such list."""
    ranks: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)) or (dash and int(last) < int(first)):
            raise ConfigError(f"--rank {text} is no list of ranks; write 517, or ranges such as 0-7,512")
        ranks += range(int(first), int(last or first) + 1)
    return ranks


def examine(options: argparse.Namespace, run: RunConfig, console: Console) -> "JobReport":
    """Every rank that was asked for."""
    from megatron_nmm.dry_run.rank import Job, dry_run
    from megatron_nmm.dry_run.roles import representatives

    job = Job.of(run, options.world, options.device, fused_weight_gradient=not options.without_apex)
    ranks = representatives(run, options.world, job.batch) if options.all else dict.fromkeys(wanted(options.rank), 1)
    each = track(ranks.items(), description="ranks", console=console, transient=True)
    return job.report(tuple(dry_run(job, rank, stands_for) for rank, stands_for in each))


def show(job: "JobReport", console: Console) -> None:
    """Tables: of one rank everything, of several their memory."""
    from megatron_nmm.dry_run import show

    console.print(show.headline(job))
    if len(job.ranks) == 1:
        (rank,) = job.ranks
        console.print(show.place(rank))
        console.print(show.groups(rank))
    console.print(show.memory(job.ranks))
    largest = max(job.ranks, key=lambda rank: rank.memory.peak)
    if len(job.ranks) > 1:
        console.print(f"rank {largest.rank}, which needs the most:")
    console.print(show.collectives(largest))
    console.print(show.waits(largest))


def faults(rank: "RankReport", memory: float | None) -> list[str]:
    """What would fail or stall on the cluster; ``memory`` in GiB, None = any."""
    found = list(rank.faults)
    if memory is not None and rank.memory.peak > memory * 2**30:
        found.append(f"its step needs {rank.memory.peak / 2**30:.1f} GiB, more than the {memory:g} of --memory")
    return found


def main() -> int:
    """Look, print, and say with the exit code whether the job would run as it should."""
    options, console, start = arguments(), Console(width=170), time.monotonic()
    try:
        run = apply(run_of(options.recipe), options.set)
        # Before torch is loaded: an illegal layout is refused at once.
        require(run, options.world)
        job = examine(options, run, console)
    except NMMError as error:
        return refuse(error)
    show(job, console)
    if options.json:
        Path(options.json).write_text(json.dumps(job.to_dict(), indent=1) + "\n", encoding="utf-8")
    wrong = [f"rank {rank.rank}: {fault}" for rank in job.ranks for fault in faults(rank, options.memory)]
    console.print("\n".join(f"[red]{line}[/]" for line in wrong) if wrong else "no faults", end=" ")
    console.print(f"({len(job.ranks)} ranks in {time.monotonic() - start:.0f} s)")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
