"""Norms that also run under sequence parallelism, which megatron-core's torch norms refuse."""

from typing import Any, cast

import torch
from torch.nn.functional import layer_norm, rms_norm


class RMSNorm(torch.nn.Module):
    """x / rms(x) * weight over the last dimension, statistics in fp32 (Zhang and Sennrich 2019); torch's kernel."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5) -> None:
        """``config`` is megatron-core's TransformerConfig; ``hidden_size`` values are normalised together."""
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        # Under sequence parallelism each tensor rank sees its own tokens: megatron-core sums the gradients of
        # parameters that carry this mark over the tensor group.
        cast(Any, self.weight).sequence_parallel = config.sequence_parallel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any leading shape; same shape and dtype out."""
        return rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class LayerNorm(torch.nn.Module):
    """(x - mean(x)) / deviation(x) * weight + bias over the last dimension, statistics in fp32; torch's kernel."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5) -> None:
        """As RMSNorm."""
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.bias = torch.nn.Parameter(torch.zeros(hidden_size, dtype=config.params_dtype))
        for p in self.parameters():
            cast(Any, p).sequence_parallel = config.sequence_parallel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any leading shape; same shape and dtype out."""
        return layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)


class FewPassRMSNorm(RMSNorm):
    """The same for CPUs, where torch composes it of a dozen passes over memory: half of them, same accuracy."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any leading shape; same shape and dtype out."""
        out: torch.Tensor = _RMSNorm.apply(x, self.weight, self.eps)
        return out


class _RMSNorm(torch.autograd.Function):
    """Keeps x and one number per row; works in fp32 on tensors that a core's cache holds."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float() if x.dtype != torch.float32 else x.clone()
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = norm.square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return wide.mul_(scale).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        grad_x, grad_weight = _backward(grads[0].float(), x.float(), weight.float(), scale)
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None


def _backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of x and of the weight by torch's one-pass kernel for layer norms, told that rows have mean 0.

    It takes the mean of grad * weight away from every row, as a layer norm wants it; here that is given back.
    """
    width = x.shape[-1]
    mean = torch.zeros_like(scale)
    grad_x, grad_weight, _ = torch.ops.aten.native_layer_norm_backward(
        grad, x, [width], mean, scale, weight, None, [True, True, False]
    )
    taken = torch.matmul(grad, weight).unsqueeze(-1).mul_(scale).mul_(1 / width)
    return grad_x.add_(taken), grad_weight
