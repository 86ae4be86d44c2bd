"""One NVIDIA GPU as a training device: collectives over NCCL, megatron-core as it comes."""

import os
import time
from collections.abc import Mapping
from datetime import timedelta
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import torch

from megatron_nmm.device import quiet
from megatron_nmm.device.flight import oldest_s
from megatron_nmm.device.protocol import AttentionBackend, Elementwise

WATCHDOG_LATER_S = 60.0


class CudaDevice:
    """The GPU of this rank."""

    name = "gpu"
    backend = "nccl"
    attention_backend: AttentionBackend = "flex"
    eight_bit_products = True
    group_options: Mapping[str, bool] = MappingProxyType({})
    fused_weight_gradient = find_spec("fused_weight_gradient_mlp_cuda") is not None  # part of apex
    writes_first_gradient = False
    elementwise: Elementwise = "compiled"

    def __init__(self) -> None:
        self._index = 0

    def start(self, local_rank: int, local_size: int, threads: int) -> None:
        """Make GPU ``local_rank`` the current one."""
        quiet.install()
        # One hardware queue keeps megatron-core's collectives ahead of the products they overlap with.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
        self._index = local_rank
        torch.cuda.set_device(local_rank)
        if threads:
            torch.set_num_threads(threads)

    def waited_s(self) -> float:
        """From torch's flight recorder: NCCL's collectives run behind the back of the thread that starts them."""
        recorder: Any = torch._C._distributed_c10d
        return oldest_s(recorder._dump_nccl_trace_json(onlyActive=True), time.time())

    def collective_limit(self, limit_s: float) -> timedelta:
        """A minute more: NCCL's watchdog aborts the process, and the report (train/roll_call.py) has to come first."""
        return timedelta(seconds=limit_s + WATCHDOG_LATER_S)

    @property
    def torch_device(self) -> torch.device:
        """This rank's GPU."""
        return torch.device("cuda", self._index)

    def synchronize(self) -> None:
        """Wait for this rank's stream."""
        torch.cuda.synchronize(self._index)

    def peak_memory(self) -> int:
        """Peak bytes held by torch's allocator."""
        return torch.cuda.max_memory_allocated(self._index)

    def describe(self) -> str:
        """The GPU's marketing name."""
        return torch.cuda.get_device_name(self._index)
