"""One forward pass through all pipeline stages: what the last stage makes of some scores, known to every rank."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from megatron_nmm.data.batch import Batch
from megatron_nmm.models.attention.cached import KeyValueCache
from megatron_nmm.parallel.schedule import through_stages
from megatron_nmm.parallel.world import World

Read = Callable[[torch.Tensor], torch.Tensor]
"""[n, V] scores of n positions -> a value, or some, of each, on the CPU."""


def read_scores(
    model: torch.nn.Module,
    batch: Batch,
    at: torch.Tensor,
    read: Read,
    like: torch.Tensor,
    world: World,
    cache: KeyValueCache | None = None,
) -> torch.Tensor:
    """What ``read`` makes of the scores at the flat positions ``at`` [n] of ``batch``. Collective over a replica.

    ``model`` is inside megatron-core's DistributedDataParallel. ``like`` has the shape and type of the result, which
    the other stages have to know. ``read`` may be called several times and gives the same each time.
    """
    with torch.no_grad():
        # Virtual stages take whole rounds; the last stage returns what it is asked for in place of a loss.
        rounds = world.parallel.pipeline if world.parallel.virtual_stages > 1 else 1
        found: list[torch.Tensor] = through_stages(
            model, [batch] * rounds, _Scores(at, read, cache), forward_only=True, collect_non_loss_data=True
        )
    return _from_last_stage(found[0] if world.is_last_stage else torch.zeros_like(like), world)


class _Scores:
    """The step function megatron-core calls on every stage."""

    def __init__(self, at: torch.Tensor, read: Read, cache: KeyValueCache | None) -> None:
        self._at, self._read, self._cache = at, read, cache

    def __call__(self, batches: Iterator[Batch], model: torch.nn.Module) -> tuple[torch.Tensor, Any]:
        def collect(scores_NV: torch.Tensor, non_loss_data: bool) -> torch.Tensor:
            return self._read(scores_NV)

        return model(next(batches), scores_at=self._at, cache=self._cache), collect


def _from_last_stage(mine: torch.Tensor, world: World) -> torch.Tensor:
    """The last pipeline stage's values on every stage; a broadcast, as a sum with zeros would be, but exact for ids."""
    values = mine.to(world.device.torch_device)
    with world.waiting("what the last pipeline stage says"):
        dist.broadcast(values, group=world.groups.pp, group_src=dist.get_world_size(world.groups.pp) - 1)
    return values.cpu()
