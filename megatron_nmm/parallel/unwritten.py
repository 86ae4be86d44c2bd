"""The gradient buffer at the start of a step: zero, except what the first weight gradient will overwrite.

A buffer of fp32 gradients is the largest thing a step touches. Filling it with zeros and adding the first gradient
costs two passes more over it than writing that gradient. So where a device's kernel can write
(``Device.writes_first_gradient``), the gradients of linear layers' weights are not zeroed but marked; the kernel takes
the mark away when it writes, and what still has it at the end of the step (a layer no token reached) is zeroed then.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch

from megatron_nmm.device.protocol import UNWRITTEN, WRITES_GRADIENT, Device


def begin_gradients(model: Any, device: Device) -> None:
    """Make ``model`` (megatron-core's DistributedDataParallel) ready for the gradients of a step."""
    if not device.writes_first_gradient or model.ddp_config.overlap_grad_reduce:
        # Buckets that are reduced on the way must not hold what only the end of the step would make zero.
        model.zero_grad_buffer()
        return
    for param in model.params_with_grad:
        param.grad_added_to_main_grad = False
    marked = {id(param) for param in _linear_weights(model)}
    for buffer in model.buffers + model.expert_parallel_buffers:
        _begin(buffer, marked)
    for group in model.bucket_groups + model.expert_parallel_bucket_groups:
        group.reset()


def zero_unwritten(model: Any) -> None:
    """Zero the gradients that nothing has written since ``begin_gradients``; before they are reduced."""
    for param in model.parameters():
        if getattr(getattr(param, "main_grad", None), UNWRITTEN, False):
            gradient = cast(Any, param).main_grad
            gradient.zero_()
            setattr(gradient, UNWRITTEN, False)


def _begin(buffer: Any, marked: set[int]) -> None:
    """Mark the gradients of ``marked`` parameters in a buffer of megatron-core's, zero everything between them."""
    end = 0
    for param, (start, stop, *_) in sorted(buffer.param_index_map.items(), key=lambda item: int(item[1][0])):
        if id(param) in marked:
            setattr(param.main_grad, UNWRITTEN, True)
            buffer.grad_data[end:start].zero_()
            end = stop
    buffer.grad_data[end:].zero_()
    for gradient in buffer.extra_main_grads:
        gradient.zero_()


def _linear_weights(model: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    """Weights whose gradients one kernel alone computes: those of megatron-core's parallel linear layers and experts.

    A tied output layer has none of its own; the table it borrows also takes gradients from looking tokens up.
    """
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear

    for module in model.modules():
        linear = isinstance(module, ColumnParallelLinear | RowParallelLinear) and module.gradient_accumulation_fusion
        if linear or getattr(module, WRITES_GRADIENT, False):
            weight = cast(torch.nn.Parameter | None, module.weight)
            if weight is not None and weight.requires_grad:
                yield weight
