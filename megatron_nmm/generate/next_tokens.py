"""One forward pass through all pipeline stages: the likeliest next token of every row, known to every rank."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from megatron_nmm.data.batch import Batch
from megatron_nmm.parallel.schedule import through_stages
from megatron_nmm.parallel.world import World


def next_tokens(
    model: torch.nn.Module, batch: Batch, last_B: torch.Tensor, vocabulary: int, world: World
) -> torch.Tensor:
    """[B] int64 on the CPU: the likeliest token after position ``last_B`` [B] of each row. Collective over a replica.

    ``model`` is inside megatron-core's DistributedDataParallel; only ids below ``vocabulary`` are candidates, because
    the embedding table may have more rows than the tokenizer has pieces.
    """
    with torch.no_grad():
        # Virtual stages take whole rounds; the last stage returns what it is asked for in place of a loss.
        rounds = world.parallel.pipeline if world.parallel.virtual_stages > 1 else 1
        found: list[torch.Tensor] = through_stages(
            model, [batch] * rounds, _Scores(last_B, vocabulary), forward_only=True, collect_non_loss_data=True
        )
    return _from_last_stage(found[0] if world.is_last_stage else torch.zeros_like(last_B), world)


class _Scores:
    """The step function megatron-core calls on every stage."""

    def __init__(self, last_B: torch.Tensor, vocabulary: int) -> None:
        self._last, self._vocabulary = last_B, vocabulary

    def __call__(self, batches: Iterator[Batch], model: torch.nn.Module) -> tuple[torch.Tensor, Any]:
        def likeliest(scores_BSV: torch.Tensor, non_loss_data: bool) -> torch.Tensor:
            rows = torch.arange(len(self._last), device=scores_BSV.device)
            chosen: torch.Tensor = scores_BSV[rows, self._last.to(scores_BSV.device), : self._vocabulary].argmax(-1)
            return chosen.cpu()

        return model(next(batches), logits=True), likeliest


def _from_last_stage(mine_B: torch.Tensor, world: World) -> torch.Tensor:
    """The last pipeline stage's values on every stage; a broadcast, as a sum with zeros would be, but exact for ids."""
    ids = mine_B.to(world.device.torch_device)
    with world.waiting("the next tokens from the last pipeline stage"):
        dist.broadcast(ids, group=world.groups.pp, group_src=dist.get_world_size(world.groups.pp) - 1)
    return ids.cpu()
