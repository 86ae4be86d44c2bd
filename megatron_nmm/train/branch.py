"""A run that branches off another: it takes up the trunk's state at a checkpoint, and the trunk's records up to there.

P1's runs with several token counts share one constant-rate trunk so: each branch cools down from its own checkpoint
(appendix A; Haegele et al., arXiv 2405.18392).
"""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from megatron_nmm.checkpoint import progress
from megatron_nmm.checkpoint.agree import on_main
from megatron_nmm.checkpoint.progress import Progress
from megatron_nmm.checkpoint.resume import continue_from
from megatron_nmm.checkpoint.state import Optimizer
from megatron_nmm.config import InitConfig, RunConfig
from megatron_nmm.config.io import to_dict
from megatron_nmm.data import ledger, quarantine
from megatron_nmm.errors import ConfigError
from megatron_nmm.files import durable
from megatron_nmm.parallel.world import World
from megatron_nmm.train import metrics
from megatron_nmm.train.run_folder import FREE, differences

RECORDS = (metrics.NAME, ledger.NAME, quarantine.NAME)
"""What a run wrote line by line; the branch goes on in copies of them."""
OWN = (*FREE, "schedule.", *(f"init.{field.name}" for field in fields(InitConfig)))
"""Keys in which a branch may differ from its trunk."""


def branch_off(run: RunConfig, model: Any, optimizer: Optimizer, world: World, say: Callable[[str], None]) -> Progress:
    """Fill ``model`` and ``optimizer`` from ``run.init.continue_from`` and copy the trunk's records. Collective.

    The records may reach beyond the checkpoint: whoever goes on with them drops the rest. Raises CheckpointError, the
    same on every rank, when the checkpoint is not intact, is of another run, or stands at or behind the run's end.
    """
    checkpoint = Path(run.init.continue_from)
    on_main(world, "comparing with the trunk", lambda: _require_trunk(run, progress.read(checkpoint)))
    reached = continue_from(checkpoint, model, optimizer, world, say)
    on_main(world, "copying the trunk's records", lambda: _copy_records(checkpoint.parent.parent, Path(run.folder)))
    if world.is_main:
        say(f"branches off {checkpoint}: weights, optimizer and place in the data")
    return reached


def _require_trunk(run: RunConfig, reached: Progress) -> None:
    changed = differences(reached.config, to_dict(run), OWN)
    if changed:
        raise ConfigError(
            f"init.continue_from {run.init.continue_from} is of another run: {'; '.join(changed)}. Only schedule and "
            "length of a branch may differ from its trunk's; use --set init.checkpoint=... to begin another run with "
            "its weights"
        )
    if reached.step >= run.steps:
        raise ConfigError(
            f"init.continue_from {run.init.continue_from} stands at step {reached.step}, and steps is {run.steps}; use "
            "an earlier checkpoint, or more steps"
        )


def _copy_records(trunk: Path, folder: Path) -> None:
    for name in RECORDS:
        if (trunk / name).exists():
            durable.replace(folder / name, (trunk / name).read_bytes())
