"""Validation: the loss on held-out packs of every source, and its plain mean over sources, P1's headline number."""

import math
import time
from dataclasses import dataclass

import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.data.sources import open_sources, open_tokenizer
from megatron_nmm.data.stream import held_out
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

    @property
    def mean(self) -> float:
        """Mean over sources of nats per supervised token, each source counting alike, P1's AVG; nan with none."""
        losses = [loss for loss in self.sums.by_source() if not math.isnan(loss)]
        return sum(losses) / len(losses) if losses else math.nan


def evaluate(model: torch.nn.Module, run: RunConfig, world: World) -> Validation:
    """Run ``run.evaluate.sources`` through ``model``, without gradients. Collective.

    The same packs every time, whatever the layout; raises DataError for a source that cannot be read.
    """
    start = time.perf_counter()
    sources = run.evaluate.sources
    names = tuple(source.name for source in open_sources(run, sources, open_tokenizer(run)))
    sums = LossSums.zero(len(sources))
    model.eval()
    for index, source in enumerate(sources):
        batches = held_out(run, source, index, world.data_rank, world.data_size)
        sums = sums + forward_backward(model, batches, world, sources=len(sources), forward_only=True)
    model.train()
    return Validation(sums, names, time.perf_counter() - start)
