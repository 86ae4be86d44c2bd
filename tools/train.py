"""Train runs as their JSON files say, one after the other in the same processes.

    python tools/train.py runs/a/run.json runs/b/run.json
    torchrun --nproc-per-node 2 tools/train.py runs/a/run.json

A file is what a run writes as config.json, or tools/sweep.py as run.json. A run that has saved its last step is passed
over, one that was interrupted goes on. The first that fails or is asked to stop ends the command.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_nmm.checkpoint.publish import CHECKPOINTS, published, step_of
from megatron_nmm.config import RunConfig
from megatron_nmm.config.io import load
from megatron_nmm.config.refusal import INTERRUPTED, refuse
from megatron_nmm.errors import NMMError
from megatron_nmm.train.main import main as train


def finished(run: RunConfig) -> bool:
    """Whether the last step of ``run`` is saved."""
    steps = [step_of(path) or 0 for path in published(Path(run.folder) / CHECKPOINTS)]
    return max(steps, default=0) >= run.steps


def main(argv: Sequence[str] | None = None) -> int:
    """Train each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN.json", help="configuration of a run")
    for file in parser.parse_args(argv).runs:
        try:
            run = load(file)
        except NMMError as error:
            return refuse(error)
        if not finished(run):
            train(RunConfig, argv=["--config", file])
            if not finished(run):
                return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
