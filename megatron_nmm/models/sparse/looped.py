"""Experts one after the other on a processor: each is large enough to fill it, and an idle one costs nothing.

Forward keeps the rows, what leaves fc1 and the activated gate; the gate's product is made again in the backward pass,
where it is needed in the cache. Weight gradients go straight into megatron-core's fp32 buffer where there is one.
Shapes: R rows, H width, F hidden width, L experts, n rows of one expert.
"""

from collections.abc import Iterator
from typing import Any

import torch

from megatron_nmm.device.mcore_on_cpu import accumulate_weight_gradient
from megatron_nmm.device.products import product
from megatron_nmm.device.protocol import UNWRITTEN


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
        activated, out = rows.new_empty(len(rows), fc2.shape[2]), torch.empty_like(rows)
        for expert, part in _segments(sizes):
            torch.mm(rows[part], fc1[expert].t(), out=gate_up[part])
            gate, up = gate_up[part].chunk(2, -1)
            torch.ops.aten.silu.out(gate, out=activated[part])
            product(activated[part] * up, fc2[expert].t(), out[part])
        out[sum(sizes) :].zero_()
        ctx.save_for_backward(rows, fc1, fc2, gate_up, activated)
        ctx.sizes = sizes
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, fc1, fc2, gate_up, activated = ctx.saved_tensors
        (grad,) = grads
        wants_rows, wants_fc1, wants_fc2, _ = ctx.needs_input_grad
        grad_rows = torch.empty_like(rows) if wants_rows else None
        grad_fc1 = _WeightGradient(fc1, ctx.sizes) if wants_fc1 else None
        grad_fc2 = _WeightGradient(fc2, ctx.sizes) if wants_fc2 else None
        for expert, part in _segments(ctx.sizes):
            grad_gate_up, hidden = _swiglu_backward(grad[part] @ fc2[expert], gate_up[part], activated[part])
            if grad_fc2 is not None:
                grad_fc2.add(expert, hidden, grad[part])
            if grad_fc1 is not None:
                grad_fc1.add(expert, rows[part], grad_gate_up)
            if grad_rows is not None:
                product(grad_gate_up, fc1[expert], grad_rows[part])
        if grad_rows is not None:
            grad_rows[sum(ctx.sizes) :].zero_()
        return grad_rows, *(None if grad is None else grad.handed_back() for grad in (grad_fc1, grad_fc2)), None


def _segments(sizes: list[int]) -> Iterator[tuple[int, slice]]:
    """(expert, its rows) of every expert that has some."""
    end = 0
    for expert, size in enumerate(sizes):
        end += size
        if size:
            yield expert, slice(end - size, end)


def _swiglu_backward(
    grad: torch.Tensor, gate_up: torch.Tensor, activated: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient [n, 2F] of gate and up from that of silu(gate) * up [n, F], and that product itself."""
    gate, up = gate_up.chunk(2, -1)
    out = torch.empty_like(gate_up)
    grad_gate, grad_up = out.chunk(2, -1)
    torch.mul(grad, activated, out=grad_up)
    torch.ops.aten.silu_backward.grad_input(grad.mul_(up), gate, grad_input=grad_gate)
    return out, activated * up


class _WeightGradient:
    """Where the gradients of the experts' matrices ``weight`` are added up: megatron-core's fp32 buffer, or zeros.

    A buffer marked UNWRITTEN is overwritten, an idle expert's share of it with zeros.
    """

    def __init__(self, weight: torch.Tensor, sizes: list[int]) -> None:
        """[L, outputs, inputs] and the rows of each expert."""
        self._weight = weight
        buffer: torch.Tensor | None = getattr(weight, "main_grad", None)
        self._own = buffer is None
        self._sum = torch.zeros_like(weight, dtype=torch.float32) if buffer is None else buffer
        self._unwritten = getattr(buffer, UNWRITTEN, False)
        if self._unwritten:
            for expert, size in enumerate(sizes):
                if not size:
                    self._sum[expert].zero_()
            setattr(buffer, UNWRITTEN, False)

    def add(self, expert: int, rows_in: torch.Tensor, rows_out: torch.Tensor) -> None:
        """The gradient of one expert, once a pass: ``rows_in`` [n, inputs], ``rows_out`` [n, outputs]."""
        place = self._sum[expert]
        setattr(place, UNWRITTEN, self._unwritten)
        accumulate_weight_gradient(rows_in, rows_out, place)

    def handed_back(self) -> torch.Tensor | None:
        """What autograd gets: nothing where the buffer has it already.

        Where megatron-core reduces gradients on the way, it waits for one of each weight: memory without values then,
        as of its own layers, marked as added already.
        """
        if self._own:
            return self._sum.to(self._weight.dtype)
        if not getattr(self._weight, "overlaps", False):
            return None
        self._weight.grad_added_to_main_grad = True  # type: ignore[attr-defined]
        return torch.empty_like(self._weight)
