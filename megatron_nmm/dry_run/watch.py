"""Every operation of a step under one pair of modes: memory, waits for the device, stray tensors, collectives.

The dispatch mode sees each operation below autograd with the tensors it takes and gives; the function mode sees the few
calls that never become one. Nothing stops at the first fault: a read is answered (balance.py), a stray tensor is
carried to the device, and the step goes on.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_nmm.dry_run.balance import answer
from megatron_nmm.dry_run.memory import Memory
from megatron_nmm.dry_run.sites import Site, callers, site_of

Wait = Literal["reads", "uploads and waits", "waits"]

COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
"""Operations that may take tensors of two devices."""
SIZED_BY_DATA = {torch.ops.aten.nonzero.default, torch.ops.aten.masked_select.default}
"""Operations whose result is as large as their data say: the host waits for the size."""
COLLECTIVES = "c10d"
BACKWARD = "backward_step"
"""megatron-core's function that calls autograd, where a backward pass without Python of its own is seen to stand."""
ONCE = ("data", "data with context", "expert data", "optimizer")
"""Groups whose collectives a step has once, whatever it is cut into."""


@dataclass(frozen=True)
class Call:
    """A sort of collective: what, in which group, and whether in the microbatches or around them."""

    name: str
    group: str
    in_microbatch: bool


@dataclass(frozen=True)
class Waited:
    """A sort of wait: what for, where, and whether in the microbatches or around them."""

    what: Wait
    site: Site
    in_microbatch: bool


@dataclass
class Seen:
    """What the modes have seen so far."""

    waits: Counter[Waited] = field(default_factory=Counter)
    strays: Counter[tuple[str, Site]] = field(default_factory=Counter)
    """(operation and shape, where) of host tensors in an operation of the device."""
    calls: Counter[Call] = field(default_factory=Counter)
    sent: Counter[Call] = field(default_factory=Counter)
    """Bytes of the larger side: what goes in, or what comes out."""


class Watch(TorchDispatchMode):
    """The dispatch mode; ``functions`` is its partner."""

    def __init__(self, memory: Memory, device: torch.device) -> None:
        """``memory`` counts on ``device``; one without data is answered for."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory, self.device, self.seen = memory, device, Seen()
        self.functions = _Functions(self)
        self.group_names: dict[str, str] = {}
        """Name of a process group in torch -> what reports call it."""
        self.in_microbatch = False
        self._strayed: dict[int, torch.Tensor] = {}
        """Host tensors already told of, by their storage."""

    def wait(self, what: Wait = "waits") -> None:
        """Note that the host waits for its device, here."""
        self.seen.waits[Waited(what, site_of(callers()[0]), self.in_microbatch)] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._has_no_data and (read := self._read(func, args, kwargs)) is not None:
            return read
        if self._has_no_data and func not in COPIES:
            args = self._without_strays(func, args)
        out = _arrived(func, args) if self._lacks_kernel(func) else func(*args, **kwargs)
        made = list(tensors((out,)))
        for tensor in made:
            self.memory.add(tensor)
        if func.namespace == COLLECTIVES:
            self._collective(func, args, made)
        return out

    @property
    def _has_no_data(self) -> bool:
        return self.device.type == "meta"

    def _lacks_kernel(self, func: Any) -> bool:
        """Whether it is a collective that torch has nothing for on a device without data."""
        return (
            self._has_no_data
            and func.namespace == COLLECTIVES
            and not func.has_kernel_for_dispatch_key(torch._C.DispatchKey.Meta)
        )

    def _read(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What to return in place of an operation that brings data to the host, or a size; None = it does not."""
        if func is torch.ops.aten._local_scalar_dense.default and self._mine(args[0]):
            return answer(self._asked(args[0]), callers()).item()
        if func is torch.ops.aten._to_copy.default:
            target = kwargs.get("device")
            if target is None or target.type == args[0].device.type:
                return None
            if self._mine(args[0]):
                found = answer(self._asked(args[0]), callers())
                return found.to(kwargs.get("dtype") or found.dtype)
            self._upload(args[0], kwargs.get("non_blocking", False))
        elif func is torch.ops.aten.copy_.default:
            if self._mine(args[1]) and not self._mine(args[0]):
                return args[0].copy_(answer(self._asked(args[1]), callers()))
            if self._mine(args[0]) and not self._mine(args[1]):
                self._upload(args[1], len(args) > 2 and args[2])
        elif func in SIZED_BY_DATA and self._mine(args[0]):
            asked = self._asked(args[0])
            made = asked.new_empty(asked.numel(), *([asked.dim()] if "nonzero" in str(func) else []), dtype=torch.long)
            self.memory.add(made)
            return made
        return None

    def _mine(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.device.type == self.device.type

    def _asked(self, tensor: torch.Tensor) -> torch.Tensor:
        self.wait("reads")
        return tensor

    def _upload(self, tensor: torch.Tensor, non_blocking: bool) -> None:
        if not non_blocking and tensor.numel():
            self.wait("uploads and waits")

    def _without_strays(self, func: Any, args: Any) -> Any:
        """``args`` with host tensors that the device's operation would refuse replaced by ones of the device."""
        given = list(tensors(args))
        if not any(self._mine(tensor) for tensor in given):
            return args
        if not any(self._stray(tensor) for tensor in given):
            return args
        return _mapped(args, lambda value: self._carried(func, value) if self._stray(value) else value)

    def _stray(self, value: Any) -> bool:
        """A host tensor with dimensions: torch takes one without as a number."""
        return isinstance(value, torch.Tensor) and value.device.type != self.device.type and value.dim() > 0

    def _carried(self, func: Any, tensor: torch.Tensor) -> torch.Tensor:
        site = site_of(callers()[0])
        # The backward pass meets again what the forward pass kept; the line to mend is the forward one.
        if not (site.function == BACKWARD and tensor.untyped_storage()._cdata in self._strayed):
            self.seen.strays[f"{func} takes a {tensor.device.type} tensor {list(tensor.shape)}", site] += 1
        self._strayed[tensor.untyped_storage()._cdata] = tensor
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=self.device)

    def _collective(self, func: Any, args: Any, made: list[torch.Tensor]) -> None:
        given = list(tensors(args))
        group = next((name for value in args if (name := self._group(value))), "?")
        name = func._schema.name.partition("::")[2].strip("_")
        call = Call(name, group, self.in_microbatch and group not in ONCE)
        self.seen.calls[call] += 1
        self.seen.sent[call] += max([*map(_bytes, given), *map(_bytes, made), 0])

    def _group(self, value: Any) -> str:
        if not isinstance(value, torch.ScriptObject):
            return ""
        try:
            name = torch.distributed.ProcessGroup.unbox(value).group_name
        except RuntimeError:  # a reduction's kind is such an object too
            return ""
        return self.group_names.get(name, name)


class _Functions(TorchFunctionMode):
    """Calls that the dispatcher does not see as a GPU would: made by hand where the meta device differs."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._watch._has_no_data:
            return func(*args, **kwargs)
        device = kwargs.get("device")
        if func is torch.nn.functional.rms_norm and self._watch._mine(args[0]):
            # GPUs have one kernel for it, which keeps a number a row; elsewhere torch composes it.
            return _rms_norm(*args, **kwargs)
        if func is torch.tensor and device is not None and torch.device(device).type == self._watch.device.type:
            self._watch.wait("uploads and waits")
        elif func is torch.Tensor.numpy and self._watch._mine(args[0]):
            return answer(self._watch._asked(args[0]), callers()).numpy()
        return func(*args, **kwargs)


def _arrived(func: Any, args: Any) -> Any:
    """What a collective returns whose tensors stay as they are: them, where it returns some, and finished work."""
    from torch._C._distributed_c10d import FakeWork, Work

    work = Work.boxed(FakeWork())
    return (args[0], work) if len(func._schema.returns) > 1 else work


def _rms_norm(
    x: torch.Tensor, shape: tuple[int, ...], weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    normed: torch.Tensor = torch.ops.aten._fused_rms_norm(x, list(shape), weight, eps)[0]
    return normed


def tensors(values: Any) -> Iterator[torch.Tensor]:
    """The tensors among arguments or results, those in lists included."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors(value)


def _mapped(values: Any, change: Any) -> Any:
    return type(values)(_mapped(v, change) if isinstance(v, list | tuple) else change(v) for v in values)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
