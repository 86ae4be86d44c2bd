"""Live bytes by kind: every storage of one device from the operation that makes it to the moment it is let go."""

import contextlib
import weakref
from collections.abc import Iterator
from typing import Literal, get_args

import torch

Kind = Literal["weights", "gradients", "optimizer", "activations", "temporary"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""weights: parameters and buffers as the model computes with them; gradients: fp32 buffers; optimizer: master weights
and moments; activations: whatever autograd keeps for the backward pass; temporary: the rest, batches included."""


class Memory:
    """What lives on one type of device, and the moment at which most did.

    Exact bytes of tensors: an allocator's rounding and fragments, workspaces inside kernels and the buffers of
    collectives come on top.
    """

    def __init__(self, device_type: str) -> None:
        """Counts storages on devices of this type only."""
        self._type = device_type
        self._known: dict[int, tuple[int, Kind, weakref.ref[torch.UntypedStorage]]] = {}
        self._inside_kernel = 0
        self.live: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        """Bytes that live now."""
        self.peak: dict[Kind, int] = dict(self.live)
        """Bytes of each kind when their sum was largest."""
        self.total = self.peak_total = 0

    def add(self, tensor: torch.Tensor, kind: Kind = "temporary") -> None:
        """Count the tensor's storage; one that is known already keeps its kind."""
        if tensor.device.type != self._type:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        if size:
            self._known[key] = (size, kind, weakref.ref(storage, lambda _: self._gone(key)))
            self._change(kind, size)

    def mark(self, tensor: torch.Tensor, kind: Kind) -> None:
        """Say what the tensor's storage is for; activations give way to every other kind but temporary."""
        self.add(tensor, kind)
        if tensor.device.type != self._type:
            return
        key = tensor.untyped_storage()._cdata
        if key not in self._known:
            return
        size, before, reference = self._known[key]
        if before != kind and (kind != "activations" or before == "temporary"):
            self._known[key] = (size, kind, reference)
            self.live[before] -= size
            self.live[kind] += size

    def start_over(self) -> None:
        """Forget the peak so far."""
        self.peak, self.peak_total = dict(self.live), self.total

    @contextlib.contextmanager
    def one_kernel(self) -> Iterator[None]:
        """The block is one kernel: what it makes and drops again never is in memory."""
        self._inside_kernel += 1
        try:
            yield
        finally:
            self._inside_kernel -= 1
            self._look()

    def _gone(self, key: int) -> None:
        size, kind, _ = self._known.pop(key)
        self._change(kind, -size)

    def _change(self, kind: Kind, size: int) -> None:
        self.live[kind] += size
        self.total += size
        if size > 0:
            self._look()

    def _look(self) -> None:
        if self.total > self.peak_total and not self._inside_kernel:
            self.peak_total, self.peak = self.total, dict(self.live)
