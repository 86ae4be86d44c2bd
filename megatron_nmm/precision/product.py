"""A linear layer's three products on operands cast to 8 bits. Shapes: T rows, K inputs, N outputs.

    y  [T, N] = input [T, K] @ weight [N, K]^T      dx [T, K] = gradient [T, N] @ weight [N, K]
    dW [N, K] = gradient [T, N]^T @ input [T, K]

Sums are taken in fp32, like a GPU's; results come back in the dtype of their counterpart.
"""

from typing import Any

import torch

from megatron_nmm.device.mcore_on_cpu import accumulate_weight_gradient
from megatron_nmm.precision.blocks import Lost
from megatron_nmm.precision.casts import Casts, Operand, Scales, Which


class Counts:
    """What the casts of one layer lost since counting began."""

    def __init__(self) -> None:
        self.counting = False
        self.lost: dict[Which, list[Lost]] = {}

    def start(self) -> None:
        """Begin anew."""
        self.counting, self.lost = True, {}

    def add(self, which: Which, lost: Lost | None) -> None:
        """Note one cast; None where nothing was counted."""
        if lost is not None:
            self.lost.setdefault(which, []).append(lost)


def product(
    rows: torch.Tensor,
    weight: torch.Tensor,
    casts: Casts,
    counts: Counts,
    *,
    recomputes: bool = False,
    training: bool = True,
    into_buffer: bool = False,
) -> torch.Tensor:
    """[..., K] -> [..., N], differentiable in both; ``training`` and ``recomputes`` as in Casts.scales.

    ``into_buffer``: the weight's gradient goes straight into megatron-core's ``main_grad``.
    """
    flat = rows.reshape(-1, rows.shape[-1])
    learning = training and torch.is_grad_enabled()
    first_pass = training and recomputes and not learning
    with torch.no_grad():
        scales = casts.scales({"input": flat, "weight": weight}, training=learning, recomputes=first_pass)
    out: torch.Tensor = _Product.apply(flat, weight, casts, counts, scales, into_buffer)
    return out.view(*rows.shape[:-1], weight.shape[0])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        weight: torch.Tensor,
        casts: Casts,
        counts: Counts,
        scales: Scales,
        into_buffer: bool,
    ) -> torch.Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.casts, ctx.counts, ctx.scales, ctx.into_buffer = casts, counts, scales, into_buffer
        x, lost_x = casts.read("input", rows, scales, count=counts.counting)
        w, lost_w = casts.read("weight", weight, scales, count=counts.counting)
        counts.add("input", lost_x)
        counts.add("weight", lost_w)
        return _multiply(x, Operand(w.values.t(), w.inverse)).to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        casts, counts, scales = ctx.casts, ctx.counts, ctx.scales
        (grad,) = grads
        own = casts.scales({"gradient": grad}, training=True, recomputes=False)
        wants_rows, wants_weight = ctx.needs_input_grad[:2]
        across, lost = casts.read("gradient", grad, own, count=counts.counting)
        counts.add("gradient", lost)
        grad_rows = grad_weight = None
        if wants_rows:
            grad_rows = _multiply(across, casts.read("weight", weight, scales, turned=True)[0]).to(rows.dtype)
        if wants_weight:
            down = casts.read("gradient", grad, own, turned=True)[0]
            x = casts.read("input", rows, scales, turned=True)[0]
            grad_weight = _weight_gradient(x, down, weight, into_buffer=ctx.into_buffer)
        return grad_rows, grad_weight, None, None, None, None


def _weight_gradient(x: Operand, grad: Operand, weight: Any, *, into_buffer: bool) -> torch.Tensor:
    """[N, K] in the weight's dtype; or in the fp32 buffer, and something to keep the hooks of its owner going."""
    if not into_buffer:
        return _multiply(Operand(grad.values.t(), grad.inverse), x).to(weight.dtype)
    inverse = _both(x, grad)
    accumulate_weight_gradient(x.values, grad.values if inverse is None else grad.values * inverse, weight.main_grad)
    weight.grad_added_to_main_grad = True
    return torch.empty_like(weight)


def _multiply(a: Operand, b: Operand) -> torch.Tensor:
    out, inverse = a.values @ b.values, _both(a, b)
    return out if inverse is None else out.mul_(inverse)


def _both(a: Operand, b: Operand) -> torch.Tensor | None:
    return a.inverse if b.inverse is None else b.inverse if a.inverse is None else a.inverse * b.inverse
