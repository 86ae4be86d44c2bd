"""What megatron-core 0.19.2 needs to run on a machine without a GPU, one function per patch.

megatron-core is used unmodified. Its modules say ``torch.cuda`` and ``device="cuda"`` in hundreds of places; instead
of changing torch for everybody in the process, each megatron-core module is given its own *view* of torch, in which
those words mean the CPU. The few places that go around the name ``torch`` are patched one by one below. Every patch
names its reason and an anchor, the text in megatron-core that makes it necessary; ``missing_anchors`` (a test calls
it) lists the patches whose place a new release no longer has. On a GPU nothing here is imported.
"""

import contextlib
import importlib
import inspect
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from megatron_nmm.device import products
from megatron_nmm.device.protocol import UNWRITTEN

ENGINE_MODULES = (
    "megatron.core.parallel_state",
    "megatron.core.utils",
    "megatron.core.timers",
    "megatron.core.tensor_parallel",
    "megatron.core.pipeline_parallel.schedules",
    "megatron.core.pipeline_parallel.p2p_communication",
    "megatron.core.distributed",
    "megatron.core.distributed.finalize_model_grads",
    "megatron.core.optimizer",
    "megatron.core.transformer.transformer_block",
    "megatron.core.transformer.transformer_layer",
    "megatron.core.transformer.attention",
    "megatron.core.fusions.fused_bias_dropout",
    "megatron.core.transformer.moe.moe_layer",
    "megatron.core.models.common.language_module.language_module",
    "megatron.core.dist_checkpointing",
    "megatron.core.dist_checkpointing.strategies.torch",
    "megatron.core.dist_checkpointing.strategies.fully_parallel",
)
"""Entry points of the engine; importing them brings in every module a run touches."""

FACTORIES = ("tensor", "as_tensor", "zeros", "ones", "empty", "full", "arange", "rand", "randn", "randint")
"""torch functions that megatron-core calls with a literal ``device="cuda"``."""

NORM_ROW = 4096
"""Gradient values whose norm one thread takes at a time."""


class Aim:
    """Where the words of a GPU lead: the CPU, or for a dry run the meta device (device/meta.py)."""

    device = torch.device("cpu")


class StreamOnCpu:
    """A stream or event of a device that queues nothing: every wait is already over."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def _nothing(self, *args: object) -> None:
        pass

    wait_stream = wait_event = synchronize = record = wait = _nothing

    def record_event(self, event: "StreamOnCpu | None" = None) -> "StreamOnCpu":
        """The given event, or a new one; both have already happened."""
        return event if event is not None else StreamOnCpu()

    def query(self) -> bool:
        """Whether the work is done: always."""
        return True

    def __enter__(self) -> "StreamOnCpu":
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def _names_gpu(device: object) -> bool:
    """Whether a ``device=`` argument means a GPU: an index, "cuda", or a torch.device of that type."""
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, int) or (isinstance(device, str) and device.startswith("cuda"))


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    """``factory`` with GPU devices replaced by the one aimed at."""

    def build(*args: Any, **kwargs: Any) -> Any:
        if _names_gpu(kwargs.get("device")):
            kwargs["device"] = Aim.device
        return factory(*args, **kwargs)

    return build


class _View(ModuleType):
    """A module that answers with its own attributes first and with those of ``original`` otherwise."""

    def __init__(self, original: ModuleType, **own: Any) -> None:
        super().__init__(original.__name__)
        self.__dict__.update(own)
        self.__dict__["_original"] = original

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__dict__["_original"], name)
        self.__dict__[name] = value  # found once, found fast
        return value


def _device_generator_state(*_: object, **__: object) -> torch.Tensor:
    return torch.default_generator.get_state()


def _set_device_generator_state(state: torch.Tensor, *_: object, **__: object) -> None:
    torch.default_generator.set_state(state)


def _cuda_view() -> ModuleType:
    """``torch.cuda`` for a machine whose only device is the CPU.

    Initialisation and dropout draw on CPU tensors, hence from torch's default generator: that one *is* the device
    generator here, so megatron-core's trackers save, fork and restore the numbers that are really drawn.
    """
    stream = StreamOnCpu()

    def nothing(*_: object, **__: object) -> None:
        pass

    def zero(*_: object, **__: object) -> int:
        return 0

    random = {
        "get_rng_state": _device_generator_state,
        "set_rng_state": _set_device_generator_state,
        "manual_seed": torch.default_generator.manual_seed,
    }
    return _View(
        torch.cuda,
        current_device=lambda: Aim.device,
        set_device=nothing,
        synchronize=nothing,
        empty_cache=nothing,
        current_stream=lambda *_: stream,
        default_stream=lambda *_: stream,
        stream=lambda *_: contextlib.nullcontext(),
        Stream=StreamOnCpu,
        Event=StreamOnCpu,
        memory_allocated=zero,
        max_memory_allocated=zero,
        memory_reserved=zero,
        is_current_stream_capturing=lambda: False,
        nvtx=_View(torch.cuda.nvtx, range_push=nothing, range_pop=nothing),
        random=_View(torch.cuda.random, **random),
        FloatTensor=torch.FloatTensor,
        BFloat16Tensor=torch.BFloat16Tensor,
        HalfTensor=torch.HalfTensor,
        **random,
    )


def torch_view() -> ModuleType:
    """torch as megatron-core should see it here: ``torch.cuda`` and ``device="cuda"`` mean the CPU.

    ``get_rng_state`` and ``set_rng_state`` answer for a *host* generator of their own: megatron-core warns when a
    device fork moves the host's random state, and on a CPU both would otherwise be the same generator.
    """
    host = torch.Generator()
    factories = {name: _on_cpu(getattr(torch, name)) for name in FACTORIES}
    return _View(torch, cuda=_cuda_view(), get_rng_state=host.get_state, set_rng_state=host.set_state, **factories)


def patch_torch_names(view: ModuleType) -> None:
    """Give every loaded megatron-core module the view: they spell ``torch.cuda.*`` and ``device="cuda"``."""
    for name, module in list(sys.modules.items()):
        if name.startswith("megatron.core") and getattr(module, "torch", None) is torch:
            setattr(module, "torch", view)


def patch_rng_state(view: ModuleType) -> None:
    """tensor_parallel.random reaches the GPU generator through private C functions; use the view's generator."""
    random = importlib.import_module("megatron.core.tensor_parallel.random")
    setattr(
        random, "_get_cuda_rng_state", lambda device="cuda", clone=False, graph_safe=False: _device_generator_state()
    )
    setattr(
        random, "_set_cuda_rng_state", lambda state, device=-1, graph_safe=False: _set_device_generator_state(state)
    )


def patch_tensor_type(view: ModuleType) -> None:
    """The optimizers sort parameters by ``param.type() == 'torch.cuda.FloatTensor'``; answer so, to them alone."""
    original = torch.Tensor.type

    def type_name(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = original(self, *args, **kwargs)
        asks_for_name = not args and not kwargs
        if asks_for_name and sys._getframe(1).f_globals.get("__name__", "").startswith("megatron.core."):
            return str(answer).replace("torch.meta.", "torch.").replace("torch.", "torch.cuda.", 1)
        return answer

    setattr(torch.Tensor, "type", type_name)


def patch_tensor_cuda(view: ModuleType) -> None:
    """Tied embeddings and checkpoint exchange move tensors with ``.cuda()``; here they already are on the device."""
    original = torch.Tensor.cuda

    def to_device(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if sys._getframe(1).f_globals.get("__name__", "").startswith("megatron.core."):
            return self.to(Aim.device)
        return original(self, *args, **kwargs)

    setattr(torch.Tensor, "cuda", to_device)


def patch_split_sizes(view: ModuleType) -> None:
    """The MoE dispatcher leaves split sizes as tensors unless they are on a GPU; gloo's all-to-all needs lists."""
    dispatcher = importlib.import_module("megatron.core.transformer.moe.token_dispatcher")

    def to_host(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        return tensor.numpy() if as_numpy and isinstance(tensor, torch.Tensor) else tensor

    setattr(dispatcher, "maybe_move_tensor_to_cpu", to_host)


def accumulate_weight_gradient(rows_in: torch.Tensor, rows_out: torch.Tensor, main_grad: torch.Tensor) -> None:
    """main_grad += rows_out^T @ rows_in; where main_grad is marked UNWRITTEN, = in place of +=.

    ``rows_in`` [T, I] and ``rows_out`` [T, O] are a linear layer's input and output gradient, ``main_grad`` [O, I].
    """
    product = rows_out.t() @ rows_in
    if getattr(main_grad, UNWRITTEN, False):
        main_grad.copy_(product)
        setattr(main_grad, UNWRITTEN, False)
    else:
        main_grad += product


def patch_weight_gradient(view: ModuleType) -> None:
    """Adding weight gradients straight into the fp32 buffer is a kernel of apex on GPUs; here it is the above."""
    layers = importlib.import_module("megatron.core.tensor_parallel.layers")
    kernels = SimpleNamespace(
        wgrad_gemm_accum_fp32=accumulate_weight_gradient, wgrad_gemm_accum_fp16=accumulate_weight_gradient
    )
    setattr(layers, "fused_weight_gradient_mlp_cuda", kernels)
    setattr(layers, "_grad_accum_fusion_available", True)


def patch_products(view: ModuleType) -> None:
    """Linear layers multiply with ``torch.matmul`` forward and ``Tensor.matmul`` backward; let both use all threads."""
    original = torch.Tensor.matmul

    def product(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if sys._getframe(1).f_globals.get("__name__") == "megatron.core.tensor_parallel.layers":
            return products.matmul(self, other)
        return original(self, other)

    setattr(torch.Tensor, "matmul", product)
    setattr(view, "matmul", products.matmul)


def joint_norm(
    chunk_size: int, overflow: torch.Tensor, tensor_lists: list[list[torch.Tensor]], per_tensor: bool
) -> tuple[torch.Tensor, None]:
    """([1] norm of all tensors of the first list taken together, None), under megatron-core's signature."""
    norms = []
    for tensor in tensor_lists[0]:
        flat = tensor.reshape(-1)
        whole = len(flat) // NORM_ROW * NORM_ROW
        norms.append(torch.linalg.vector_norm(flat[:whole].view(-1, NORM_ROW), dim=-1))
        norms.append(torch.linalg.vector_norm(flat[whole:]).view(1))
    return torch.linalg.vector_norm(torch.cat(norms)).view(1), None


def patch_gradient_norm(view: ModuleType) -> None:
    """The norm of all gradients: torch reduces a whole tensor on one thread, but rows on all of them."""
    setattr(importlib.import_module("megatron.core.optimizer.clip_grads"), "l2_norm_impl", joint_norm)


@dataclass(frozen=True)
class Patch:
    """One change, and the text in megatron-core that makes it necessary."""

    apply: Callable[[ModuleType], None]
    module: str
    anchor: str

    @property
    def name(self) -> str:
        """The function's name, as test failures print it."""
        return self.apply.__name__


PATCHES = (
    Patch(patch_torch_names, "megatron.core.pipeline_parallel.schedules", 'dtype=torch.int, device="cuda"'),
    Patch(patch_rng_state, "megatron.core.tensor_parallel.random", "default_generators[idx]"),
    Patch(patch_tensor_type, "megatron.core.optimizer.clip_grads", "'torch.cuda.FloatTensor'"),
    Patch(patch_tensor_cuda, "megatron.core.models.common.language_module.language_module", "weight.data.cuda()"),
    Patch(
        patch_weight_gradient,
        "megatron.core.tensor_parallel.layers",
        "fused_weight_gradient_mlp_cuda.wgrad_gemm_accum_fp32",
    ),
    Patch(patch_products, "megatron.core.tensor_parallel.layers", "grad_output.matmul(weight)"),
    Patch(patch_gradient_norm, "megatron.core.optimizer.clip_grads", "l2_norm_impl, dummy_overflow_buf"),
    Patch(patch_split_sizes, "megatron.core.transformer.moe.token_dispatcher", "maybe_move_tensor_to_cpu"),
)


def missing_anchors(patches: tuple[Patch, ...] = PATCHES) -> list[str]:
    """Names of the patches whose anchor the installed megatron-core no longer has."""
    return [p.name for p in patches if p.anchor not in inspect.getsource(importlib.import_module(p.module))]


def unpatched_modules() -> list[str]:
    """Loaded megatron-core modules that still see the real torch: ENGINE_MODULES forgot their entry point."""
    return sorted(
        n for n, m in sys.modules.items() if n.startswith("megatron.core") and getattr(m, "torch", 0) is torch
    )


def import_engine() -> None:
    """Import the engine without its remarks that Transformer Engine, apex and a GPU are absent: here they must be."""
    extension_log = logging.getLogger("torch.utils.cpp_extension")
    level = extension_log.level
    extension_log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name in ENGINE_MODULES:
            importlib.import_module(name)
    extension_log.setLevel(level)


def install() -> None:
    """Apply every patch, once per process."""
    schedules = sys.modules.get("megatron.core.pipeline_parallel.schedules")
    if schedules is not None and isinstance(schedules.torch, _View):
        return
    import_engine()
    view = torch_view()
    for patch in PATCHES:
        patch.apply(view)
