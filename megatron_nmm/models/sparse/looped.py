"""Experts one after the other on a processor: each is large enough to fill it, and an idle one costs nothing.

Forward keeps the rows and what leaves fc1; the gate's product is made again in the backward pass, where it is needed
in the cache. Weight gradients go straight into megatron-core's fp32 buffer where there is one.
Shapes: R rows, H width, F hidden width, L experts, n rows of one expert.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import silu

from megatron_nmm.device.mcore_on_cpu import accumulate_weight_gradient


def looped_mlp(
    rows_RH: torch.Tensor, fc1: torch.Tensor, fc2: torch.Tensor, tokens_per_expert: torch.Tensor
) -> torch.Tensor:
    """[R, H] -> [R, H] through fc1 [L, 2F, H], SwiGLU and fc2 [L, H, F]; rows behind the last segment give zero."""
    out: torch.Tensor = _Looped.apply(rows_RH, fc1, fc2, tokens_per_expert.tolist())
    return out


class _Looped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, fc1: torch.Tensor, fc2: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        gate_up = rows.new_empty(len(rows), fc1.shape[1])
        out = torch.empty_like(rows)
        for expert, part in _segments(sizes):
            torch.mm(rows[part], fc1[expert].t(), out=gate_up[part])
            gate, up = gate_up[part].chunk(2, -1)
            torch.mm(silu(gate).mul_(up), fc2[expert].t(), out=out[part])
        out[sum(sizes) :].zero_()
        ctx.save_for_backward(rows, fc1, fc2, gate_up)
        ctx.sizes = sizes
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, fc1, fc2, gate_up = ctx.saved_tensors
        (grad,) = grads
        wants_rows, wants_fc1, wants_fc2, _ = ctx.needs_input_grad
        grad_rows = torch.empty_like(rows) if wants_rows else None
        grad_fc1, grad_fc2 = _buffer(fc1, wants_fc1), _buffer(fc2, wants_fc2)
        for expert, part in _segments(ctx.sizes):
            grad_gate_up, activated = _swiglu_backward(grad[part] @ fc2[expert], gate_up[part])
            if grad_fc2 is not None:
                accumulate_weight_gradient(activated, grad[part], grad_fc2[expert])
            if grad_fc1 is not None:
                accumulate_weight_gradient(rows[part], grad_gate_up, grad_fc1[expert])
            if grad_rows is not None:
                torch.mm(grad_gate_up, fc1[expert], out=grad_rows[part])
        if grad_rows is not None:
            grad_rows[sum(ctx.sizes) :].zero_()
        return grad_rows, _handed_back(fc1, grad_fc1), _handed_back(fc2, grad_fc2), None


def _segments(sizes: list[int]) -> Iterator[tuple[int, slice]]:
    """(expert, its rows) of every expert that has some."""
    end = 0
    for expert, size in enumerate(sizes):
        end += size
        if size:
            yield expert, slice(end - size, end)


def _swiglu_backward(grad: torch.Tensor, gate_up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient [n, 2F] of gate and up from that of silu(gate) * up [n, F], and that product itself."""
    gate, up = gate_up.chunk(2, -1)
    activated = silu(gate)
    out = torch.empty_like(gate_up)
    grad_gate, grad_up = out.chunk(2, -1)
    torch.mul(grad, activated, out=grad_up)
    torch.ops.aten.silu_backward.grad_input(grad.mul_(up), gate, grad_input=grad_gate)
    return out, activated.mul_(up)


def _buffer(weight: torch.Tensor, wanted: bool) -> torch.Tensor | None:
    """Where the gradient of ``weight`` is added up: megatron-core's fp32 buffer, or a tensor of its own."""
    if not wanted:
        return None
    buffer: torch.Tensor | None = getattr(weight, "main_grad", None)
    return torch.zeros_like(weight, dtype=torch.float32) if buffer is None else buffer


def _handed_back(weight: torch.Tensor, grad: torch.Tensor | None) -> torch.Tensor | None:
    """What autograd gets: nothing where the buffer has it already."""
    return None if grad is None or hasattr(weight, "main_grad") else grad.to(weight.dtype)
