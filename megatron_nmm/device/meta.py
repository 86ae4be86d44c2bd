"""The meta device as a rank of a cluster: tensors have shapes and no data, collectives arrive without anybody there.

A dry run (megatron_nmm/dry_run) sees what a rank would allocate, send and wait for. The device stands in for another
one: kernels, and what they keep for the backward pass, are chosen as there.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch

from megatron_nmm.device import mcore_on_cpu, quiet
from megatron_nmm.device.cpu import CpuDevice
from megatron_nmm.device.cuda import CudaDevice
from megatron_nmm.device.protocol import UNWRITTEN, Device

META = torch.device("meta")


class MetaDevice:
    """Stands in for ``like``, of which nothing but its choices is used."""

    name = "meta"
    backend = "cpu:fake,meta:fake"
    eight_bit_products = False  # Transformer Engine needs a GPU even for shapes: recipes of 8 bits are emulated
    group_options: Mapping[str, bool] = MappingProxyType({"create_gloo_process_groups": False})

    def __init__(self, like: Device, *, fused_weight_gradient: bool = True) -> None:
        """``fused_weight_gradient``: whether there is a kernel that adds weight gradients into the fp32 buffer; on a
        GPU it is apex's, which a laptop has not and the cluster may have."""
        self.like = like
        self.attention_backend = like.attention_backend
        self.elementwise = like.elementwise
        self.writes_first_gradient = like.writes_first_gradient
        self.fused_weight_gradient = fused_weight_gradient

    def waited_s(self) -> float:
        """0: collectives arrive at once."""
        return 0.0

    def collective_limit(self, limit_s: float) -> timedelta:
        """As the device it stands for."""
        return self.like.collective_limit(limit_s)

    def start(self, local_rank: int, local_size: int, threads: int) -> None:
        """Make megatron-core run without a GPU; ``meta`` then aims it at the meta device."""
        quiet.install()
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")  # as on a GPU; megatron-core warns without
        mcore_on_cpu.install()
        from torch.testing._internal.distributed import fake_pg  # noqa: F401 - registers the backend "fake"

    @property
    def torch_device(self) -> torch.device:
        """The meta device."""
        return META

    def synchronize(self) -> None:
        """Nothing is queued."""

    def peak_memory(self) -> int:
        """Nothing is held; a dry run counts by itself."""
        return 0

    def describe(self) -> str:
        """What it stands for."""
        return f"meta (as {self.like.name})"


def like(name: str, *, fused_weight_gradient: bool = True) -> MetaDevice:
    """The meta device in the place of a "gpu" or the "cpu"."""
    stands_for = CpuDevice() if name == "cpu" else CudaDevice()
    return MetaDevice(stands_for, fused_weight_gradient=fused_weight_gradient)


@contextlib.contextmanager
def aimed(
    device: MetaDevice, waits: Callable[[], None], one_kernel: Callable[[], AbstractContextManager[None]]
) -> Iterator[None]:
    """Run the block with megatron-core's GPU words leading to the meta device.

    ``waits`` is called where megatron-core waits for its GPU; ``one_kernel`` is entered around functions that a GPU's
    compiler makes one kernel of: what they allocate in between it never does.
    """
    gpu = sys.modules["megatron.core.pipeline_parallel.schedules"].torch.cuda
    layers = sys.modules["megatron.core.tensor_parallel.layers"]
    router = sys.modules["megatron.core.transformer.moe.moe_utils"]
    with contextlib.ExitStack() as changes:
        _set(changes, mcore_on_cpu.Aim, "device", META)
        _set(changes, gpu, "synchronize", lambda *_: waits())
        for owner, name, function in list(_compiled_functions()):
            _set(changes, owner, name, _uncompiled(function, one_kernel))
        # megatron-core keeps this tensor for good: a meta one must not meet real ones, nor the other way round.
        _set(changes, router.MoEAuxLossAutoScaler, "main_loss_backward_scale", None)
        if device.elementwise == "compiled":
            kernels = SimpleNamespace(wgrad_gemm_accum_fp32=_added, wgrad_gemm_accum_fp16=_added)
            _set(changes, layers, "fused_weight_gradient_mlp_cuda", kernels)
        yield


def _set(changes: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set an attribute until ``changes`` closes."""
    changes.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def _added(rows_in: torch.Tensor, rows_out: torch.Tensor, main_grad: torch.Tensor) -> None:
    """apex's kernel: main_grad += rows_out^T @ rows_in in one product that allocates nothing."""
    setattr(main_grad, UNWRITTEN, False)


def _compiled_functions() -> Iterator[tuple[Any, str, Any]]:
    """(module, name, function) of megatron-core's functions under torch.compile."""
    for path, module in list(sys.modules.items()):
        if path.startswith("megatron.core."):
            for name, value in list(vars(module).items()):
                if callable(value) and hasattr(value, "_torchdynamo_orig_callable"):
                    yield module, name, value


def _uncompiled(function: Any, one_kernel: Callable[[], AbstractContextManager[None]]) -> Callable[..., Any]:
    """The function itself, which on tensors without data needs no compiler."""
    original = function._torchdynamo_orig_callable

    def run(*args: Any, **kwargs: Any) -> Any:
        with one_kernel():
            return original(*args, **kwargs)

    return run
