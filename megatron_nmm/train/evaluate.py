"""Validation: the loss on held-out packs of every source, and its plain mean over sources, P1's headline number."""

import math
import time
from dataclasses import dataclass

import torch

from megatron_nmm.data.held_out import HeldOut
from megatron_nmm.data.quarantine import BadSample
from megatron_nmm.parallel.losses import LossSums
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.parallel.world import World


@dataclass(frozen=True)
class Validation:
    """Losses on held-out packs, equal on every rank."""

    sums: LossSums
    """Sources in the order of ``sources``."""
    sources: tuple[str, ...]
    seconds: float
    bad: tuple[BadSample, ...] = ()
    """Samples of this rank's packs that could not be loaded; something else stood in for them."""

    @property
    def mean(self) -> float:
        """Mean over sources of nats per supervised token, each source counting alike, P1's AVG; nan with none."""
        losses = [loss for loss in self.sums.by_source() if not math.isnan(loss)]
        return sum(losses) / len(losses) if losses else math.nan


def evaluate(model: torch.nn.Module, held_out: HeldOut, world: World) -> Validation:
    """Run every source of ``held_out`` through ``model``, without gradients. Collective.

    The same packs every time, whatever the layout.
    """
    start = time.perf_counter()
    names = held_out.source_names
    sums = LossSums.zero(len(names))
    bad: list[BadSample] = []
    model.eval()
    for source in range(len(names)):
        read = held_out.batches(source)
        batches = [microbatch.batch for microbatch in read]
        sums = sums + forward_backward(model, batches, world, sources=len(names), forward_only=True)
        bad += [sample for microbatch in read for row in microbatch.rows for sample in row.bad]
    model.train()
    return Validation(sums, names, time.perf_counter() - start, tuple(bad))
