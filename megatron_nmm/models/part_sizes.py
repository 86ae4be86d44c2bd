"""How many weights each part of a built model has, over all its ranks."""

from dataclasses import fields

import torch
import torch.distributed as dist

from megatron_nmm.config import RatesConfig
from megatron_nmm.models.parts import part_of
from megatron_nmm.parallel.experts import copy_of_model, is_expert, split_by_tensor
from megatron_nmm.parallel.world import World


def part_sizes(model: torch.nn.Module, world: World) -> dict[str, int]:
    """Part -> weights in the whole model, for the parts it has, in the order of RatesConfig. Collective.

    What tensor ranks hold alike counts once, and so does the copy of a tied table on the last pipeline stage.
    """
    from megatron.core.tensor_parallel.layers import param_is_not_tensor_parallel_duplicate
    from megatron.core.transformer.module import param_is_not_shared

    whole: dict[str, int] = {}
    for expert in (False, True):
        mine: dict[str, int] = {}
        tensor = split_by_tensor(world, expert=expert)
        for name, param in model.named_parameters():
            counted = param_is_not_shared(param) and param_is_not_tensor_parallel_duplicate(param, tensor)
            if is_expert(param) == expert and counted:
                mine[part_of(name)] = mine.get(part_of(name), 0) + param.numel()
        group = copy_of_model(world, expert=expert)
        everyone: list[dict[str, int]] = [mine] * dist.get_world_size(group)
        with world.waiting("the sizes of the other ranks' parts"):
            dist.all_gather_object(everyone, mine, group=group)
        for part, size in (item for sizes in everyone for item in sizes.items()):
            whole[part] = whole.get(part, 0) + size
    return {field.name: whole[field.name] for field in fields(RatesConfig) if whole.get(field.name)}
