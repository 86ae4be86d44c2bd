"""From a run configuration to the wrapped model of this rank."""

from typing import Any, cast

import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.models.freeze import freeze
from megatron_nmm.models.to_mcore import transformer_config
from megatron_nmm.parallel.virtual import VirtualStages
from megatron_nmm.parallel.world import World
from megatron_nmm.parallel.wrap import wrap


def build(run: RunConfig, world: World) -> torch.nn.Module:
    """This rank's stage and shard, inside megatron-core's DistributedDataParallel (``.module`` is the model).

    Several virtual stages come as one VirtualStages (parallel/virtual.py).
    """
    # Imported here: megatron-core must not be loaded before the device is started.
    from megatron_nmm.models.native import NativeMultimodalModel

    config = transformer_config(run, world)
    wrapped = []
    for chunk in range(run.parallel.virtual_stages):
        with torch.device(world.device.torch_device):
            model = NativeMultimodalModel(run, config, world, chunk)
        freeze(model, run)
        wrapped.append(wrap(model, config, run.parallel, world))
    if run.parallel.overlap_gradients:
        # All but a step's last backward pass add up in silence; the schedule calls these around them.
        silent = [cast(Any, chunk).no_sync for chunk in wrapped]
        config.no_sync_func = silent[0] if len(silent) == 1 else silent
    return wrapped[0] if len(wrapped) == 1 else VirtualStages(wrapped)
