"""What a recipe of 8 bits finds on the GPU of this process, told before anything is built."""

from dataclasses import replace

import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.config.check import check
from megatron_nmm.config.fault import config_error
from megatron_nmm.config.needs import TRANSFORMER_ENGINE, Hardware, recipe_faults
from megatron_nmm.config.versions import installed
from megatron_nmm.device.protocol import Device


def require_eight_bits(run: RunConfig, device: Device, world_size: int) -> None:
    """Raise ConfigError that lists what keeps ``run``'s recipe from ``device``, which may have been chosen by itself.

    Nothing of a plain run, an emulated one, or on a device that emulates.
    """
    if not device.eight_bit_products:
        return
    faults = (*check(replace(run, device="gpu"), world_size), *recipe_faults(run, hardware()))
    if faults:
        raise config_error("the run cannot start", faults)


def hardware() -> Hardware:
    """This machine's Transformer Engine, the first GPU, and the toolkit that torch is built for."""
    toolkit = tuple(map(int, (torch.version.cuda or "0").split(".")))
    return Hardware(installed(*TRANSFORMER_ENGINE), torch.cuda.get_device_capability(), toolkit)
