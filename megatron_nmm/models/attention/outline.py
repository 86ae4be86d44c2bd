"""FlexAttention's kernel in outline, for tensors without data: what it allocates and keeps, and nothing computed.

A dry run on the meta device needs the memory of the fused kernel. Torch's own fallback there would be the one that
materialises T x T scores. Shapes: H query heads, G key/value heads, T tokens, D head width.
"""

from typing import Any

import torch


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: Any) -> torch.Tensor:
    """[1, H, T, D], [1, G, T, D] twice -> [1, H, T, D]; takes FlexAttention's other arguments and needs none."""
    out: torch.Tensor = _Outline.apply(query, key, value)
    return out


class _Outline(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(query)
        log_sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, log_sums)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, _, log_sums = ctx.saved_tensors
        # Row sums of out * gradient, which the kernel works out first.
        torch.empty_like(log_sums)
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
