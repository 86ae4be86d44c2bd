"""Every byte a step of training allocates on the CPU, watched tensor by tensor as operators make and drop them."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.accounting.activations import Rows
from megatron_nmm.planner.load import Load
from megatron_nmm.verify.workers import Place as Worker

SENDS = {
    "allreduce_": 2.0,
    "allreduce_coalesced_": 2.0,
    "_allgather_base_": 1.0,
    "allgather_into_tensor_coalesced_": 1.0,
    "_reduce_scatter_base_": 1.0,
    "reduce_scatter_tensor_coalesced_": 1.0,
    "alltoall_base_": 1.0,
    "send": 2.0,
}
"""Collectives of a step as torch's dispatcher calls them -> how many halves of its tensor each of two ranks sends."""


class Live(TorchDispatchMode):
    """Bytes of all storages made inside the block that are still there, and the most that ever were."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        """``known`` were there before; views of them are no new memory."""
        super().__init__()
        self.known = {t.untyped_storage()._cdata for t in known}
        self.sizes: dict[int, int] = {}
        self.bytes = self.peak = 0
        self.sent = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("c10d::")
        if name in SENDS and _ranks(args) > 1:
            self.sent += SENDS[name] / 2 * max(_total(args[0]), _total(args[1]))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.sizes or key in self.known or not storage.nbytes():
            return
        self.sizes[key] = storage.nbytes()
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.bytes -= self.sizes.pop(key, 0)


@dataclass(frozen=True)
class Seen:
    """One rank's step."""

    weights: int
    gradients: int
    optimizer: int
    kept: int
    """Alive when the first microbatch's forward pass ends."""
    peak: int
    load: Load
    sent: float
    """Bytes that a rank of groups of two sends, as rings count them."""


def step(worker: Worker, run: RunConfig) -> Seen:
    """Build, take a step to warm up, watch the next."""
    from megatron_nmm.models.build import build
    from megatron_nmm.parallel.schedule import forward_backward
    from megatron_nmm.train.optim import Optimizer
    from megatron_nmm.verify import synthetic

    with worker.world(run.parallel) as world:
        model: Any = build(run, world)
        optimizer = Optimizer(run, model, world)
        copies = run.data.global_batch // run.data.microbatch // world.data_size
        batches = synthetic.batches(run, 1, seed=3) * copies
        forward_backward(model, batches, world)
        optimizer.step(1)
        buffers = model.buffers + model.expert_parallel_buffers
        known = [p.data for p in model.parameters()] + [b.grad_data for b in buffers]
        known += [v for v in vars(batches[0]).values() if isinstance(v, torch.Tensor)]
        live = Live(known)
        with live, _first_forward(model, live) as kept:
            forward_backward(model, batches, world)
        activations, peak = kept[0], live.peak
        with live:
            optimizer.step(2)
        return Seen(
            weights=_bytes(p.data for p in model.parameters()),
            gradients=_bytes(b.grad_data for b in buffers),
            optimizer=_optimizer_bytes(optimizer, model),
            kept=activations,
            peak=peak,
            load=load(model, batches[0], run, world),
            sent=live.sent,
        )


@contextmanager
def _first_forward(model: torch.nn.Module, live: Live) -> Iterator[list[int]]:
    """Bytes alive after each forward pass of ``model``."""
    kept: list[int] = []
    hook = model.register_forward_hook(lambda *_: kept.append(live.bytes))
    yield kept
    hook.remove()


def load(model: Any, batch: Batch, run: RunConfig, world: Any) -> Load:
    """What the planner has to be told of ``batch`` to say what it allocates here."""
    from megatron_nmm.models.attention.layout import PackedLayout
    from megatron_nmm.train.meter import work

    decoder = _rows(PackedLayout.of(batch, run.model.image_mask))
    encoder = Rows(0.0)
    if run.model.vision.depth and world.is_first_stage:
        encoder = _rows(PackedLayout.full(model.module.vision_encoder.shares(batch).mine.views))
    return Load(work(batch, run.model), decoder, encoder)


def _rows(layout: Any) -> Rows:
    """How attention on this CPU cuts documents of ``layout``."""
    from megatron_nmm.models.attention.per_document import prepare

    buckets = prepare(layout, torch.device("cpu")).buckets
    pairs = sum(b.documents * (block.rows.stop - block.rows.start) * block.keys for b in buckets for block in b.blocks)
    return Rows(layout.tokens, sum(b.documents * b.length for b in buckets), pairs)


def _ranks(args: Any) -> int:
    """Of the group a collective runs in."""
    boxed = next(arg for arg in args if isinstance(arg, torch.ScriptObject) and "ProcessGroup" in str(arg._type()))
    return dist.ProcessGroup.unbox(boxed).size()


def _total(tensors: Any) -> int:
    """Bytes of one argument of a collective: a tensor, several, or none."""
    return sum(t.nbytes for t in tree_leaves(tensors) if isinstance(t, torch.Tensor))


def _bytes(tensors: Any) -> int:
    """Of the storages behind ``tensors``, each once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def _optimizer_bytes(optimizer: Any, model: Any) -> int:
    """Moments, and fp32 weights that are not the model's own."""
    own = {p.data.untyped_storage()._cdata for p in model.parameters()}
    stepped = [p for adamw in optimizer.adamws for group in adamw.param_groups for p in group["params"]]
    moments = [m for adamw in optimizer.adamws for state in adamw.state.values() for m in state.values()]
    return _bytes([p.data for p in stepped if p.untyped_storage()._cdata not in own] + moments)
