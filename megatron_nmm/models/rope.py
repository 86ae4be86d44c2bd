"""Rotary position embedding, one dimension (RoFormer, the half-split layout that Llama and megatron-core use).

megatron-core computes cosines again in every layer and for queries and keys apart; here they are computed once a
microbatch from the restarting positions of its documents and shared by all layers.
"""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of T positions."""

    cos: torch.Tensor
    """[T, 1, D / 2]"""
    sin: torch.Tensor
    """[T, 1, D / 2]"""

    @staticmethod
    def at(
        positions_T: torch.Tensor, head_width: int, base: float, device: torch.device, dtype: torch.dtype
    ) -> "Rotation":
        """Angles of ``positions_T`` for heads of ``head_width``, computed in fp32, kept in ``dtype``."""
        pairs = torch.arange(0, head_width, 2, dtype=torch.float32, device=device)
        frequency = base ** (-pairs / head_width)
        angle = positions_T.to(device=device, dtype=torch.float32, non_blocking=True)[:, None, None] * frequency
        return Rotation(angle.cos().to(dtype), angle.sin().to(dtype))


def rotate(x_THD: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Turn each head's pair (i, i + D/2) by its position's angle; [T, H, D] in and out."""
    out: torch.Tensor = _Rotate.apply(x_THD, rotation.cos, rotation.sin)
    return out


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, direction: int) -> torch.Tensor:
    """Rotate by +angle (``direction`` 1) or -angle (-1), written half by half into one result."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin, value=direction)
    return out


class _Rotate(torch.autograd.Function):
    """A rotation's gradient is the opposite rotation: nothing but the angles is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _turn(grads[0], ctx.saved_tensors[0], ctx.saved_tensors[1], -1), None, None
