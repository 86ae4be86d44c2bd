"""Known mistakes to inject, so that the comparison proves it can fail.

Each fault leaves out one collective that a hand-written layout could forget.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from importlib import import_module
from typing import Any

FINALIZE = "megatron.core.distributed.finalize_model_grads"
DDP = "megatron.core.distributed.distributed_data_parallel"
GRADIENTS = "megatron_nmm.parallel.gradients"
MAPPINGS = "megatron.core.tensor_parallel.mappings"
GATHERED = "megatron_nmm.models.attention.gathered"


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _unchanged(tensor: Any, *_: Any, **__: Any) -> Any:
    return tensor


def _own_part_alone(tensor: Any, *, group: Any, **_: Any) -> Any:
    """A gather of rows whose backward pass keeps this rank's part of its own gradient."""
    mappings = import_module(MAPPINGS)
    return mappings.gather_from_sequence_parallel_region(tensor, tensor_parallel_output_grad=False, group=group)


FAULTS: dict[str, tuple[str, str, Callable[..., Any]]] = {
    "norm gradients": (FINALIZE, "_allreduce_non_tensor_model_parallel_grads", _nothing),
    "row output": (MAPPINGS, "_reduce", _unchanged),
    "encoder gradients": (GRADIENTS, "_sum_marked", _nothing),
    "key gradients": (GATHERED, "gather_from_sequence_parallel_region", _own_part_alone),
    "data gradients": (DDP, "DistributedDataParallel.finish_grad_sync", _nothing),
}
"""Name -> (module, function left out, what runs instead). "norm gradients": the sum over tensor ranks of the norms'
gradients; "row output": the sum behind every row-parallel product and the vocabulary-parallel embedding; "encoder
gradients": the sum over tensor ranks that run a vision encoder on images, or heads, of their own; "key gradients": the
sum over context ranks of what their queries ask of keys and values; "data gradients": the sum over data-parallel
replicas."""


@contextmanager
def injected(name: str | None) -> Iterator[None]:
    """Run the block with the fault ``name``; None = without one."""
    if name is None:
        yield
        return
    module_name, path, replacement = FAULTS[name]
    *owners, function = path.split(".")
    owner = reduce(getattr, owners, import_module(module_name))
    original = getattr(owner, function)
    setattr(owner, function, replacement)
    try:
        yield
    finally:
        setattr(owner, function, original)
