"""The CPU as a training device: collectives over gloo, megatron-core made to run without a GPU."""

import os
import resource

import torch

from megatron_nmm.device import quiet
from megatron_nmm.device.protocol import AttentionBackend, Elementwise


class CpuDevice:
    """A share of this machine's cores."""

    name = "cpu"
    backend = "gloo"
    attention_backend: AttentionBackend = "per_document"
    fused_weight_gradient = True
    elementwise: Elementwise = "few_passes"  # compiling would need a compiler on the user's machine

    def start(self, local_rank: int, local_size: int, threads: int) -> None:
        """Take ``threads`` threads (0 = cores / ``local_size``) and make megatron-core run here."""
        from megatron_nmm.device import mcore_on_cpu

        quiet.install()
        # Read by megatron-core only to warn that a GPU would want it.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(threads or max(1, cores // local_size))
        torch.set_flush_denormal(True)
        mcore_on_cpu.install()

    @property
    def torch_device(self) -> torch.device:
        """The one CPU."""
        return torch.device("cpu")

    def synchronize(self) -> None:
        """Nothing is queued on a CPU."""

    def peak_memory(self) -> int:
        """Peak resident set of this process in bytes."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def describe(self) -> str:
        """Name and threads."""
        return f"cpu ({torch.get_num_threads()} threads per process)"
