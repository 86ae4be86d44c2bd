"""How the tensor group shares the vision encoder: one decision, and the process groups that follow from it.

"tensor": every rank computes its part of every matrix, for all patches. "data": every rank holds the whole encoder and
takes whole views. NaViL-2B's 23 heads, for one, divide by no group of two or more.
"""

from datetime import timedelta
from typing import Any, Literal

import torch.distributed as dist

from megatron_nmm.config import ParallelConfig
from megatron_nmm.config.schema import VisionConfig
from megatron_nmm.parallel.world import World

Placement = Literal["tensor", "data"]


def placement(vision: VisionConfig, parallel: ParallelConfig) -> Placement:
    """Where the encoder's work is cut; with a tensor group of one both ways are the same, and it is "tensor"."""
    if parallel.tensor == 1:
        return "tensor"
    if parallel.vision != "auto":
        return parallel.vision
    divides = vision.heads % parallel.tensor == 0 and vision.ffn_width % parallel.tensor == 0
    return "tensor" if divides else "data"


def encoder_groups(world: World, placed: Placement) -> Any:
    """megatron-core's groups for the encoder's layers; in placement "data" their tensor group is this rank alone."""
    if placed == "tensor":
        return world.groups
    from megatron.core.process_groups_config import ProcessGroupCollection

    alone = dist.new_group(
        [world.rank], timeout=timedelta(seconds=world.parallel.time_limit_s), use_local_synchronization=True
    )
    return ProcessGroupCollection(**{**vars(world.groups), "tp": alone})
