"""How much work was done in how much time: token, image and FLOP rates over the whole job, memory, waiting for data."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.accounting import step_flops
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


class Meter:
    """Adds up this rank's work; ``read`` makes it the job's and starts the next interval."""

    def __init__(self, run: RunConfig, world: World) -> None:
        self._model, self._world = run.model, world
        self.restart()

    def restart(self) -> None:
        """Start an interval now; what came before counts for nothing."""
        self._work = torch.zeros(4, dtype=torch.float64)
        self._waited = 0.0
        self._start = time.perf_counter()

    def add(self, batches: Sequence[Batch], wait_s: float) -> None:
        """Count one step of this rank: its microbatches and the seconds it waited for them."""
        for batch in batches:
            self._work += work(batch, self._model.image_mask == "bidirectional")
        self._waited += wait_s

    def read(self) -> Reading:
        """The interval since the last reading. Collective."""
        self._world.device.synchronize()
        seconds = time.perf_counter() - self._start
        here = self._world.device.torch_device
        summed = self._work.to(here)
        largest = torch.tensor([self._world.device.peak_memory(), self._waited], dtype=torch.float64, device=here)
        with self._world.waiting("the other ranks' meters"):
            dist.all_reduce(summed, group=self._world.groups.dp)
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        tokens, pairs, patches, logit_tokens = (int(value) for value in summed.tolist())
        memory, waited = largest.tolist()
        flops = step_flops(self._model, tokens, pairs, patches, logit_tokens).total
        self.restart()
        return Reading(seconds, tokens / seconds, patches / seconds, flops / seconds, int(memory), waited)


def work(batch: Batch, bidirectional: bool) -> torch.Tensor:
    """[4] fp64: positions, attending (query, key) pairs, patches (= image tokens), supervised tokens of ``batch``."""
    lengths = batch.document_starts.diff(dim=1).double()
    images = (batch.image_blocks[:, 2] - batch.image_blocks[:, 1]).double()
    pairs = (lengths * (lengths + 1)).sum() / 2
    if bidirectional:
        # Causal pairs are counted already; every later key of the same image comes on top.
        pairs = pairs + (images * (images - 1)).sum() / 2
    counts = (batch.tokens.numel(), pairs.item(), len(batch.patches), (batch.loss_weight > 0).sum().item())
    return torch.tensor(counts, dtype=torch.float64)
