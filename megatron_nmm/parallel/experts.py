"""Sparse experts' weights lie with a group of their own: the ranks that hold the same ones, not the data ranks.

megatron-core marks such a weight; this says for either sort which ranks hold the same, and which together one copy.
"""

from typing import Any

import torch

from megatron_nmm.parallel.world import World


def is_expert(p: torch.nn.Parameter) -> bool:
    """Whether ``p`` belongs to sparse experts that ranks share (megatron-core's mark)."""
    return not getattr(p, "allreduce", True)


def replicas(world: World, *, expert: bool) -> Any:
    """The group of ranks that hold the same weights: data ranks, or those with the same experts."""
    return world.groups.expt_dp if expert else world.groups.dp_cp


def copy_of_model(world: World, *, expert: bool) -> Any:
    """The group of ranks that together hold each weight once."""
    return world.groups.tp_ep_pp if expert else world.groups.mp


def split_by_tensor(world: World, *, expert: bool) -> Any:
    """The group whose ranks hold slices of the same matrices, or the same vectors; experts are never sliced."""
    return world.groups.expt_tp if expert else world.groups.tp
