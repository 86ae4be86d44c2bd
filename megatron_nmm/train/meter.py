"""How much work was done in how much time: rates over the whole job, memory, waiting for data, samples replaced."""

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import torch
import torch.distributed as dist

from megatron_nmm.config import ModelConfig, RatesConfig, RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.accounting import Work, causal_pairs, later_pairs, step_flops, view_pairs, window_pairs
from megatron_nmm.parallel.world import World


@dataclass(frozen=True)
class Reading:
    """One interval between two readings, the same on every rank."""

    seconds: float
    tokens_per_second: float
    """Decoder positions, images and padding included."""
    image_tokens_per_second: float
    flops_per_second: float
    """Model FLOPs: forward and backward of the matrix products that the trained parts need, without recomputation."""
    memory_bytes: int
    """Peak of the fullest rank since it started."""
    data_wait_s: float
    """Seconds of the interval in which the slowest rank waited for data."""
    tokens: int
    """Decoder positions of the interval that samples fill: text and images, no padding; over the whole job."""
    image_tokens: int
    """Positions among them that images fill."""
    flops: int
    """Model FLOPs of the interval. These three count all work, that before ``restart`` too."""
    samples: int
    """Samples planned for the rows of the interval, over the whole job."""
    replaced: int
    """Those of them whose images could not be decoded, so that something else stood in."""


class Meter:
    """Adds up this rank's work; ``read`` makes it the job's and starts the next interval."""

    def __init__(self, run: RunConfig, world: World) -> None:
        self._model, self._rates, self._world = run.model, run.optim.rates, world
        self._samples = [0, 0]
        self._all = torch.zeros(len(fields(Work)), dtype=torch.float64)
        self.restart()

    def restart(self) -> None:
        """Start timing an interval now; work done before counts in no rate, but still among what was read."""
        self._work = torch.zeros(len(fields(Work)), dtype=torch.float64)
        self._waited = 0.0
        self._start = time.perf_counter()

    def add(self, batches: Sequence[Batch], wait_s: float, samples: int, replaced: int) -> None:
        """Count one step of this rank: its microbatches, seconds waited for them, samples planned and replaced."""
        for batch in batches:
            done = torch.tensor(astuple(work(batch, self._model)), dtype=torch.float64)
            self._work += done
            self._all += done
        self._waited += wait_s
        self._samples = [self._samples[0] + samples, self._samples[1] + replaced]

    def read(self) -> Reading:
        """The interval since the last reading. Collective."""
        self._world.device.synchronize()
        seconds = time.perf_counter() - self._start
        here = self._world.device.torch_device
        summed = torch.cat([self._work, self._all, torch.tensor(self._samples, dtype=torch.float64)]).to(here)
        largest = torch.tensor([self._world.device.peak_memory(), self._waited], dtype=torch.float64, device=here)
        with self._world.waiting("the other ranks' meters"):
            dist.all_reduce(summed, group=self._world.groups.dp)
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        *counts, samples, replaced = (int(value) for value in summed.tolist())
        memory, waited = largest.tolist()
        timed, done = Work(*counts[: len(counts) // 2]), Work(*counts[len(counts) // 2 :])
        self.restart()
        self._samples = [0, 0]
        self._all.zero_()
        rates = timed.tokens / seconds, self._image_tokens(timed) / seconds, self._flops(timed) / seconds
        totals = done.filled_tokens, self._image_tokens(done), self._flops(done)
        return Reading(seconds, *rates, int(memory), waited, *totals, samples, replaced)

    def _image_tokens(self, done: Work) -> int:
        return done.patches // self._model.vision.shuffle**2

    def _flops(self, done: Work) -> int:
        return step_flops(self._model, done, self._rates).total


def work(batch: Batch, model: ModelConfig) -> Work:
    """What ``batch`` asks of ``model``: counted on the host, from the tensors that the model itself is driven by."""
    pairs = causal_pairs(batch.document_starts.diff(dim=1).long()).sum()
    if model.image_mask == "bidirectional":
        pairs = pairs + later_pairs(batch.image_blocks[:, 2] - batch.image_blocks[:, 1]).sum()
    rows, columns = batch.grids.unbind(dim=1)
    return Work(
        tokens=batch.tokens.numel(),
        attended_pairs=int(pairs),
        logit_tokens=int((batch.loss_weight > 0).sum()),
        patches=len(batch.patches),
        filled_tokens=int(batch.filled.sum()),
        visual_tokens=len(batch.visual_index),
        view_pairs=int(view_pairs(rows, columns, model.vision.class_token).sum()),
        window_pairs=int(window_pairs(rows, columns, model.vision.window).sum()),
        class_tokens=len(batch.grids) if model.vision.class_unit else 0,
    )


def batch_flops(model: ModelConfig, batches: Sequence[Batch], rates: RatesConfig | None = None) -> int:
    """Model FLOPs of a step over ``batches``, forward and backward; ``rates`` tells which parts are frozen."""
    return sum(step_flops(model, work(batch, model), rates).total for batch in batches)
