"""Whole tensors from the shards of every rank, and back: how two layouts of one model are compared.

megatron-core already knows which slice of which global tensor a rank holds (its sharded state dict); the same map
serves parameters and gradients. Layers are named one by one ("decoder.layers.3.mlp.linear_fc1.weight").
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.distributed as dist

from megatron_nmm.config.recipes import is_state
from megatron_nmm.errors import CheckpointError
from megatron_nmm.parallel.experts import replicas
from megatron_nmm.parallel.world import World
from megatron_nmm.parallel.wrap import complete_weights

Values = Callable[[torch.nn.Parameter], torch.Tensor | None]
"""What to read from (or write to) a parameter: itself, or its gradient; None = it has no such thing."""


def parameter(p: torch.nn.Parameter) -> torch.Tensor:
    """The parameter's own values."""
    return p.data


def gradient(p: torch.nn.Parameter) -> torch.Tensor | None:
    """The reduced fp32 gradient that megatron-core's buffers hold; None of a frozen parameter."""
    return cast(torch.Tensor, cast(Any, p).main_grad) if p.requires_grad else None


def gather(model: torch.nn.Module, world: World, values: Values = parameter) -> dict[str, torch.Tensor] | None:
    """Every global tensor, whole and in fp32 on the CPU, on rank 0; None elsewhere. Collective."""
    complete_weights(model)
    mine = [
        (piece.key, piece.global_shape, piece.global_slice(), piece.data.detach().float().cpu())
        for piece in pieces(model, values)
        if _first_replica(piece.replica_id)
    ]
    everyone: list[Any] | None = [None] * world.size if world.is_main else None
    with world.waiting("the shards of all ranks"):
        dist.gather_object(mine, everyone)
    if everyone is None:
        return None
    full: dict[str, torch.Tensor] = {}
    for key, shape, place, data in (piece for shards in everyone for piece in shards):
        full.setdefault(key, torch.full(shape, float("nan")))[place] = data
    return full


def load(model: torch.nn.Module, full: dict[str, torch.Tensor]) -> None:
    """Copy this rank's slices of ``full`` into ``model``.

    Raises CheckpointError when a tensor is missing or has another shape, before anything is changed.
    """
    mine = list(pieces(model))
    faults = [f"{p.key} is missing" for p in mine if p.key not in full]
    faults += [
        f"{p.key} has shape {tuple(full[p.key].shape)}, the model wants {tuple(p.global_shape)}"
        for p in mine
        if p.key in full and tuple(full[p.key].shape) != tuple(p.global_shape)
    ]
    if faults:
        raise CheckpointError("the full state does not fit the model: " + "; ".join(faults))
    with torch.no_grad():
        for piece in mine:
            piece.data.copy_(full[piece.key][piece.global_slice()])


def complete_gradients(model: torch.nn.Module, world: World) -> None:
    """Under the distributed optimizer each data rank holds the sum of its own share only; gather the others'."""
    ddp = cast(Any, model)
    for buffers, expert in ((ddp.buffers, False), (ddp.expert_parallel_buffers, True)):
        group = replicas(world, expert=expert)
        for bucket in (bucket for buffer in buffers for bucket in buffer.buckets):
            share = bucket.grad_data.view(group.size(), -1)[group.rank()].clone()
            dist.all_gather_into_tensor(bucket.grad_data, share, group=group)


def _first_replica(replica_id: int | tuple[int, ...]) -> bool:
    return replica_id == 0 or (isinstance(replica_id, tuple) and not any(replica_id))


def pieces(model: torch.nn.Module, values: Values = parameter) -> Iterator[Any]:
    """ShardedTensors of this rank whose ``data`` is ``values`` of the parameter, factories (SwiGLU) taken apart.

    Parameters without such values are left out, and so is what number formats remember: it is no weight.
    """
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

    entries = cast(Any, model).module.sharded_state_dict(metadata={"non_homogeneous_layers": True})
    for entry in entries.values():
        weight = isinstance(entry, ShardedTensor | ShardedTensorFactory) and not is_state(entry.key)
        data = values(entry.data) if weight else None
        if data is None:
            continue
        if isinstance(entry, ShardedTensorFactory):
            yield from entry.build_fn(entry.key, data, entry.replica_id, None)
        else:
            yield ShardedTensor(**{**vars(entry), "data": data, "dtype": data.dtype})
