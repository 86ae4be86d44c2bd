"""One NVIDIA GPU as a training device: collectives over NCCL, megatron-core as it comes."""

import os
from importlib.util import find_spec

import torch

from megatron_nmm.device import quiet
from megatron_nmm.device.protocol import AttentionBackend, Elementwise


class CudaDevice:
    """The GPU of this rank."""

    name = "gpu"
    backend = "nccl"
    attention_backend: AttentionBackend = "flex"
    eight_bit_products = True
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
