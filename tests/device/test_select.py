"""A run's device: the CPU when there is nothing else, a clear refusal of what is not there."""

import pytest
import torch

from megatron_nmm.device.select import select
from megatron_nmm.errors import ConfigError


def test_auto_takes_what_the_machine_has() -> None:
    assert select("auto").name == ("gpu" if torch.cuda.is_available() else "cpu")


def test_cpu_can_always_be_asked_for() -> None:
    device = select("cpu")
    assert (device.name, device.torch_device.type) == ("cpu", "cpu")
    assert device.peak_memory() > 1 << 20


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(ConfigError, match=r"torch sees no GPU.*use device=cpu"):
        select("gpu")
