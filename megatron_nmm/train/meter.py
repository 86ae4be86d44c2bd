"""How much work was done in how much time: rates over the whole job, memory, waiting for data, samples replaced."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.accounting import causal_pairs, later_pairs, step_flops
from megatron_nmm.parallel.world import World


@dataclass(frozen=True)
class Reading:
    """One interval between two readings, the same on every rank."""

    seconds: float
    tokens_per_second: float
    """Decoder positions, images and padding included."""
    image_tokens_per_second: float
    flops_per_second: float
    """Model FLOPs: forward and backward of the matrix products, recomputation not counted."""
    memory_bytes: int
    """Peak of the fullest rank since it started."""
    data_wait_s: float
    """Seconds of the interval in which the slowest rank waited for data."""
    samples: int
    """Samples planned for the rows of the interval, over the whole job."""
    replaced: int
    """Those of them whose images could not be decoded, so that something else stood in."""


class Meter:
    """Adds up this rank's work; ``read`` makes it the job's and starts the next interval."""

    def __init__(self, run: RunConfig, world: World) -> None:
        self._model, self._world = run.model, world
        self._samples = [0, 0]
        self.restart()

    def restart(self) -> None:
        """Start timing an interval now; work done before counts for nothing, samples read before still count."""
        self._work = torch.zeros(4, dtype=torch.float64)
        self._waited = 0.0
        self._start = time.perf_counter()

    def add(self, batches: Sequence[Batch], wait_s: float, samples: int, replaced: int) -> None:
        """Count one step of this rank: its microbatches, seconds waited for them, samples planned and replaced."""
        for batch in batches:
            self._work += work(batch, self._model.image_mask == "bidirectional")
        self._waited += wait_s
        self._samples = [self._samples[0] + samples, self._samples[1] + replaced]

    def read(self) -> Reading:
        """The interval since the last reading. Collective."""
        self._world.device.synchronize()
        seconds = time.perf_counter() - self._start
        here = self._world.device.torch_device
        summed = torch.cat([self._work, torch.tensor(self._samples, dtype=torch.float64)]).to(here)
        largest = torch.tensor([self._world.device.peak_memory(), self._waited], dtype=torch.float64, device=here)
        with self._world.waiting("the other ranks' meters"):
            dist.all_reduce(summed, group=self._world.groups.dp)
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        tokens, pairs, patches, logit_tokens, samples, replaced = (int(value) for value in summed.tolist())
        memory, waited = largest.tolist()
        flops = step_flops(self._model, tokens, pairs, patches, logit_tokens).total
        self.restart()
        self._samples = [0, 0]
        rates = tokens / seconds, patches / seconds, flops / seconds
        return Reading(seconds, *rates, int(memory), waited, samples, replaced)


def work(batch: Batch, bidirectional: bool) -> torch.Tensor:
    """[4] fp64: positions, attending (query, key) pairs, patches (= image tokens), supervised tokens of ``batch``."""
    pairs = causal_pairs(batch.document_starts.diff(dim=1).long()).sum()
    if bidirectional:
        pairs = pairs + later_pairs(batch.image_blocks[:, 2] - batch.image_blocks[:, 1]).sum()
    counts = (batch.tokens.numel(), pairs.item(), len(batch.patches), (batch.loss_weight > 0).sum().item())
    return torch.tensor(counts, dtype=torch.float64)
