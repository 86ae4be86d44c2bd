"""The CPU as a training device: collectives over gloo, megatron-core made to run without a GPU."""

import ctypes
import os
import resource
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType

import torch

from megatron_nmm.device import quiet
from megatron_nmm.device.protocol import AttentionBackend, Elementwise

KEEP_BELOW = 1 << 30
"""Freed blocks up to this many bytes stay with the process."""


class CpuDevice:
    """A share of this machine's cores."""

    name = "cpu"
    backend = "gloo"
    attention_backend: AttentionBackend = "per_document"
    eight_bit_products = False
    group_options: Mapping[str, bool] = MappingProxyType({})
    fused_weight_gradient = True
    writes_first_gradient = True
    elementwise: Elementwise = "few_passes"  # compiling would need a compiler on the user's machine

    def start(self, local_rank: int, local_size: int, threads: int) -> None:
        """Take ``threads`` threads (0 = cores / ``local_size``) and make megatron-core run here."""
        from megatron_nmm.device import mcore_on_cpu

        quiet.install()
        keep_freed_memory()
        # Read by megatron-core only to warn that a GPU would want it.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(threads or max(1, cores // local_size))
        torch.set_flush_denormal(True)
        mcore_on_cpu.install()

    def waited_s(self) -> float:
        """0: gloo raises an error in the thread that waits."""
        return 0.0

    def collective_limit(self, limit_s: float) -> timedelta:
        """The limit itself."""
        return timedelta(seconds=limit_s)

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


def keep_freed_memory() -> None:
    """Let malloc reuse large blocks instead of returning them to the system after every tensor.

    A training step allocates the same tensors again and again; by default glibc maps and unmaps each, and the page
    faults cost a sixth of a step. Does nothing where the C library has no mallopt.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3  # names and numbers of malloc.h
        mallopt(m_mmap_threshold, KEEP_BELOW)
        mallopt(m_trim_threshold, KEEP_BELOW)
