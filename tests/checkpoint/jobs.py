"""Jobs for worker processes: a toy of the real model and optimizer that trains, saves, resumes and reports."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from megatron_nmm.checkpoint.progress import Progress
from megatron_nmm.checkpoint.resume import load_weights, resume
from megatron_nmm.checkpoint.save import SaveReport, save
from megatron_nmm.config import RunConfig
from megatron_nmm.config.io import to_dict
from megatron_nmm.errors import CheckpointError
from megatron_nmm.models.build import build
from megatron_nmm.parallel import full_state
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.parallel.world import World
from megatron_nmm.train.optim import Optimizer
from megatron_nmm.verify import layouts, synthetic
from megatron_nmm.verify.layouts import Layout
from megatron_nmm.verify.workers import Place

KEEP = 2


def toy(layout: Layout, dtype: str = "fp32", seed: int = 1) -> RunConfig:
    """A small early-fusion run in ``layout``; ``seed`` sets the initial weights, never the data."""
    run = layouts.toy(RunConfig())
    model = replace(run.model, layers=2, width=32, ffn=48)
    precision = replace(run.precision, dtype=dtype)
    return replace(run, seed=seed, parallel=layout.parallel, model=model, precision=precision)


@dataclass
class Session:
    """One rank's model, optimizer and what was said, inside a job."""

    run: RunConfig
    world: World
    model: Any
    optimizer: Optimizer
    said: list[str] = field(default_factory=list)

    def train(self, first: int, last: int) -> list[float]:
        """Losses of steps ``first`` to ``last``; the batch of a step depends on its number alone."""
        losses = []
        for step in range(first, last + 1):
            rows = synthetic.batches(self.run, self.run.data.global_batch // self.run.data.microbatch, seed=step)
            share = len(rows) // self.world.data_size
            mine = rows[self.world.data_rank * share : (self.world.data_rank + 1) * share]
            losses.append(forward_backward(self.model, mine, self.world).mean)
            self.optimizer.step(step)
        return losses

    def save(self, folder: Path, step: int) -> SaveReport:
        """Save as step ``step``."""
        reached = Progress(step, step * self.run.data.global_batch, to_dict(self.run))
        return save(folder, step, self.model, self.optimizer, reached, self.world, KEEP, self.said.append)

    def resume(self, folder: Path) -> Progress | None:
        """Resume from ``folder``."""
        return resume(folder, self.model, self.optimizer, self.world, self.said.append)


@contextmanager
def session(place: Place, run: RunConfig) -> Iterator[Session]:
    """A freshly built model and optimizer in a world of their own."""
    with place.world(run.parallel, run.seed) as world:
        model = build(run, world)
        yield Session(run, world, model, Optimizer(run, model, world))


def train_and_save(place: Place, run: RunConfig, folder: Path, *steps: int) -> list[float]:
    """Train from step 1, saving at each of ``steps``; the losses."""
    losses: list[float] = []
    with session(place, run) as here:
        for step in steps:
            losses += here.train(len(losses) + 1, step)
            here.save(folder, step)
    return losses


def resume_and_train(
    place: Place, run: RunConfig, folder: Path, last: int, to: Path
) -> tuple[Progress | None, list[float], list[str]]:
    """Resume from ``folder``, save at once in ``to``, train to ``last``, save again: (progress, losses, lines said)."""
    with session(place, run) as here:
        reached = here.resume(folder)
        assert reached is not None
        here.save(to, reached.step)
        losses = here.train(reached.step + 1, last)
        here.save(to, last)
        return reached, losses, here.said


def try_to_resume(place: Place, run: RunConfig, folder: Path) -> tuple[Progress | None, str, list[str]]:
    """(progress, error message or "", what was said). An error must not end the job: it would end the workers."""
    with session(place, run) as here:
        try:
            return here.resume(folder), "", here.said
        except CheckpointError as error:
            return None, str(error), here.said


def weights_of(place: Place, run: RunConfig, folder: Path) -> tuple[int, dict[str, torch.Tensor] | None]:
    """Weights alone, loaded by load_weights and gathered whole: (step, tensors on rank 0)."""
    with place.world(run.parallel, run.seed) as world:
        model = build(run, world)
        reached = load_weights(folder, model, world, lambda line: None)
        return reached.step, full_state.gather(model, world)


def tensors(place: Place, checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, whole, as megatron-core itself reads it."""
    from megatron.core import dist_checkpointing

    with place.world(layouts.SINGLE.parallel):
        found: dict[str, torch.Tensor] = dist_checkpointing.load_plain_tensors(str(checkpoint))
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
