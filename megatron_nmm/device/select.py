"""Choose the device of a run, once."""

import torch

from megatron_nmm.device.cpu import CpuDevice
from megatron_nmm.device.cuda import CudaDevice
from megatron_nmm.device.protocol import Device
from megatron_nmm.errors import ConfigError


def select(name: str = "auto") -> Device:
    """The device called ``name``; "auto" takes a GPU when torch sees one.

    Raises ConfigError when a GPU is asked for and none is visible.
    """
    visible = torch.cuda.is_available()
    if name == "gpu" and not visible:
        raise ConfigError(
            "device is gpu but torch sees no GPU on this machine; use device=cpu, or run `nvidia-smi` and check "
            f"that the driver fits torch {torch.__version__}"
        )
    return CudaDevice() if name == "gpu" or (name == "auto" and visible) else CpuDevice()
