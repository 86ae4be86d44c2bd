"""Build a rank's model and optimizer and take a training step, under the modes that see everything.

The same on the meta device, for a rank of a cluster, and on a CPU with real numbers, against which tests hold it.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.dry_run.memory import Memory
from megatron_nmm.dry_run.watch import Seen, Watch
from megatron_nmm.models.build import build
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.parallel.world import World
from megatron_nmm.train.optim import Optimizer

GROUPS = {
    "tp": "tensor",
    "cp": "context",
    "pp": "pipeline",
    "dp": "data",
    "dp_cp": "data with context",
    "tp_cp": "tensor with context",
    "ep": "expert",
    "expt_dp": "expert data",
    "embd": "embedding",
    "mp": "model",
    "tp_ep_pp": "expert model",
    "intra_dist_opt": "optimizer",
}
"""Attribute of megatron-core's ProcessGroupCollection -> what reports call the group."""
WITH_CONTEXT = " with context"
"""End of the name of a group that is another one where there is no context parallelism."""


@dataclass(frozen=True)
class Rank:
    """What was built."""

    model: torch.nn.Module
    optimizer: Optimizer


def prepare(run: RunConfig, world: World, watch: Watch) -> Rank:
    """Build this rank's part, every byte of it known by its kind."""
    _name_groups(world, watch)
    with watch, watch.functions:
        model = build(run, world)
        optimizer = Optimizer(run, model, world)
    _know(model, optimizer, watch.memory)
    return Rank(model, optimizer)


def take_step(rank: Rank, batches: Sequence[Batch], world: World, watch: Watch) -> None:
    """One training step on ``batches``; the peak of memory is that of the step."""
    watch.memory.start_over()
    watch.seen = Seen()
    with _saved_for_backward(watch.memory), _in_microbatches(rank.model, watch), watch, watch.functions:
        forward_backward(rank.model, batches, world)
        rank.optimizer.step(1)


def named_groups(world: World) -> dict[str, Any]:
    """What reports call them -> the process groups that this rank belongs to."""
    found: dict[str, Any] = {}
    for name, group in _named(world):
        found.setdefault(name, group)
    return found


def _named(world: World) -> Iterator[tuple[str, Any]]:
    """Every group of this rank and its name; two may be of the same ranks and have the same."""
    for attribute, name in GROUPS.items():
        group = getattr(world.groups, attribute, None)
        if isinstance(group, dist.ProcessGroup):
            yield name if world.parallel.context > 1 else name.removesuffix(WITH_CONTEXT), group


def _name_groups(world: World, watch: Watch) -> None:
    """Tell ``watch`` what the groups are called; the whole job is torch's own first group."""
    watch.group_names[cast(Any, dist.group.WORLD).group_name] = "job"
    for name, group in reversed([*_named(world)]):
        watch.group_names[cast(Any, group).group_name] = name


def _know(model: Any, optimizer: Optimizer, memory: Memory) -> None:
    """Say what each standing tensor is for; weights last, for without fp32 masters the optimizer steps them."""
    for adamw in optimizer.adamws:
        for group in adamw.param_groups:
            for param in group["params"]:
                memory.mark(param, "optimizer")
                for state in adamw.state[param].values():
                    memory.mark(state, "optimizer")
    for buffer in model.buffers + model.expert_parallel_buffers:
        memory.mark(buffer.grad_data, "gradients")
    for tensor in (*model.module.parameters(), *model.module.buffers()):
        memory.mark(tensor, "weights")


def _saved_for_backward(memory: Memory) -> contextlib.AbstractContextManager[Any]:
    """Autograd's own word for what an activation is: a tensor it keeps."""

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        memory.mark(tensor, "activations")
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)


@contextlib.contextmanager
def _in_microbatches(model: Any, watch: Watch) -> Iterator[None]:
    """Tell ``watch`` when the first microbatch begins, and when all are through and the step's reductions follow."""
    config = model.config
    finalize: Callable[..., None] = config.finalize_model_grads_func
    no_sync = config.no_sync_func

    def before_the_first() -> Any:
        watch.in_microbatch = True
        return no_sync() if no_sync is not None else contextlib.nullcontext()

    def behind_the_last(*arguments: Any, **settings: Any) -> None:
        watch.in_microbatch = False
        finalize(*arguments, **settings)

    config.no_sync_func, config.finalize_model_grads_func = before_the_first, behind_the_last
    try:
        yield
    finally:
        watch.in_microbatch = False
        config.no_sync_func, config.finalize_model_grads_func = no_sync, finalize
