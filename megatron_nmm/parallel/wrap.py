"""Data parallelism around a model: megatron-core's DistributedDataParallel with fp32 gradient buffers."""

from typing import Any

import torch

from megatron_nmm.config import ParallelConfig
from megatron_nmm.parallel.world import World


def wrap(model: torch.nn.Module, config: Any, parallel: ParallelConfig, world: World) -> torch.nn.Module:
    """Wrap ``model``; all data-parallel replicas start from the weights of the first.

    ``config`` is the model's TransformerConfig. Gradients gather in fp32 and are summed, not averaged: the schedule
    divides once by the global count of supervised tokens.
    """
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

    settings = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=parallel.distributed_optimizer,
        overlap_grad_reduce=False,
    )
    wrapped: torch.nn.Module = DistributedDataParallel(config, settings, model, pg_collection=world.groups)
    wrapped.broadcast_params()  # type: ignore[operator]
    return wrapped
