"""Data parallelism around a model: megatron-core's DistributedDataParallel with fp32 gradient buffers."""

from typing import Any, cast

import torch

from megatron_nmm.config import ParallelConfig
from megatron_nmm.parallel.experts import replicas
from megatron_nmm.parallel.virtual import stage_chunks
from megatron_nmm.parallel.world import World

SMALLEST_BUCKET, BUCKET_PER_RANK = 40_000_000, 1_000_000
"""Values in a bucket of gradients: megatron-core's own, which keep each rank's part of it worth a message."""


def wrap(model: torch.nn.Module, config: Any, parallel: ParallelConfig, world: World) -> torch.nn.Module:
    """Wrap ``model``; all data-parallel replicas start from the weights of the first.

    ``config`` is the model's TransformerConfig. Gradients gather in fp32 and are summed, not averaged: the schedule
    divides once by the global count of supervised tokens. Parameters that take no gradient get no buffer; a model of
    which none does is wrapped all the same, since its stage still hands gradients on.
    """
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

    settings = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=parallel.distributed_optimizer,
        overlap_grad_reduce=parallel.overlap_gradients,
        overlap_param_gather=parallel.overlap_weights,
        # Buckets by size serve the overlap with computations only.
        bucket_size=_bucket_size(world) if parallel.overlap_gradients else None,
        fp8_param_gather=bool(config.fp8_param),
    )
    layout = _sharded_layout(model, settings, world) if parallel.distributed_optimizer else None
    wrapped: torch.nn.Module = DistributedDataParallel(
        config, settings, model, pg_collection=world.groups, full_param_layout=layout
    )
    for param in model.parameters():
        # For layers that add to the buffer by themselves (models/sparse/looped.py): whether a hook waits for them.
        cast(Any, param).overlaps = parallel.overlap_gradients
    wrapped.broadcast_params()  # type: ignore[operator]
    return wrapped


def complete_weights(model: torch.nn.Module) -> None:
    """Gather now what the next forward pass would: before weights are read otherwise. Collective over replicas."""
    for chunk in stage_chunks(model):
        ddp: Any = chunk
        if ddp.ddp_config.overlap_param_gather:
            with torch.no_grad():
                ddp.start_param_sync(force_sync=True)


def _bucket_size(world: World) -> int:
    ranks: int = replicas(world, expert=False).size()
    return max(SMALLEST_BUCKET, BUCKET_PER_RANK * ranks)


def _sharded_layout(model: torch.nn.Module, settings: Any, world: World) -> Any:
    """megatron-core's FullParamLayout for a sharded optimizer, with the padding between buckets counted in.

    Tables tied across pipeline stages have buckets of their own. When megatron-core 0.19.2 saves optimizer state it
    joins buckets without the padding between them, but cuts parameters out at places that count it: the state of
    all parameters behind the first bucket would be stored shifted. Padding that counts as content is saved as well.
    """
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    trained = [param for param in model.parameters() if param.requires_grad]
    layout = DistributedOptimizer.compute_full_param_layout(
        trained,
        # None = one bucket, and so has megatron-core all stages but the first, whose backward pass is the last to end.
        settings.bucket_size if world.is_first_stage else None,
        replicas(world, expert=False).size(),
        settings,
        expert_data_parallel_world_size=replicas(world, expert=True).size(),
    )
    for buffer in layout.layouts.values():
        buffer.per_bucket_numel_unpadded = [end - start for start, end in buffer.bucket_indices]
    return layout
