"""SwiGLU's gate in few passes over memory: silu(gate) * up, both gradients written into one tensor."""

from typing import Any

import torch
from torch.nn.functional import silu


class SwiGLU(torch.nn.Module):
    """[..., 2 F] -> [..., F]: the first half gates the second (Shazeer 2020). Holds no parameters."""

    def __init__(self, config: Any) -> None:
        """``config`` is megatron-core's TransformerConfig; it is not needed."""
        super().__init__()

    def forward(self, gate_up: torch.Tensor) -> torch.Tensor:
        """Halves are laid out as megatron-core's gated MLP lays them: [gate, up] on each tensor rank."""
        out: torch.Tensor = _SwiGLU.apply(gate_up)
        return out


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, -1)
        activated = silu(gate)
        ctx.save_for_backward(gate_up, activated)
        return activated * up

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        gate_up, activated = ctx.saved_tensors
        gate, up = gate_up.chunk(2, -1)
        out = torch.empty_like(gate_up)
        grad_gate, grad_up = out.chunk(2, -1)
        torch.mul(grads[0], activated, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grads[0] * up, gate, grad_input=grad_gate)
        return out
