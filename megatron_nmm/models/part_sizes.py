"""How many weights each part of a built model has, over all its ranks."""

from dataclasses import fields

import torch
import torch.distributed as dist

from megatron_nmm.config import RatesConfig
from megatron_nmm.models.parts import part_of
from megatron_nmm.parallel.world import World


def part_sizes(model: torch.nn.Module, world: World) -> dict[str, int]:
    """Part -> weights in the whole model, for the parts it has, in the order of RatesConfig. Collective.

    What tensor ranks hold alike counts once, and so does the copy of a tied table on the last pipeline stage.
    """
    from megatron.core.tensor_parallel.layers import param_is_not_tensor_parallel_duplicate
    from megatron.core.transformer.module import param_is_not_shared

    mine: dict[str, int] = {}
    for name, param in model.named_parameters():
        if param_is_not_shared(param) and param_is_not_tensor_parallel_duplicate(param, world.groups.tp):
            mine[part_of(name)] = mine.get(part_of(name), 0) + param.numel()
    everyone: list[dict[str, int]] = [mine] * dist.get_world_size(world.groups.mp)
    with world.waiting("the sizes of the other ranks' parts"):
        dist.all_gather_object(everyone, mine, group=world.groups.mp)
    whole = {part.name: sum(sizes.get(part.name, 0) for sizes in everyone) for part in fields(RatesConfig)}
    return {part: size for part, size in whole.items() if size}
