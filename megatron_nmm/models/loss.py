"""Next-token cross entropy over a vocabulary split between tensor ranks.

megatron-core has one; it makes about ten fp32 passes over the scores. This one keeps them in the model's dtype and
overwrites them with exp(score - max): three passes, half the memory in bf16, the same three small reductions between
tensor ranks. Sums and losses are fp32.
"""

from typing import Any

import torch
import torch.distributed as dist

ROWS = 64
"""Rows widened to fp32 at a time, so that the wide copy stays in cache."""


def token_losses(logits: torch.Tensor, labels: torch.Tensor, tensor_group: Any) -> torch.Tensor:
    """[N, V / t] scores and [N] labels -> [N] fp32 losses in nats, the same on every tensor rank.

    ``logits`` is overwritten; it must not be used afterwards.
    """
    losses: torch.Tensor = _TokenLosses.apply(logits, labels, tensor_group)
    return losses


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor, group: Any) -> torch.Tensor:
        peak = logits.amax(-1).float()
        dist.all_reduce(peak, op=dist.ReduceOp.MAX, group=group)
        width = logits.shape[-1]
        local = labels - dist.get_rank(group) * width
        mine = (local >= 0) & (local < width)
        local = local.clamp(0, width - 1)
        target = logits.gather(1, local[:, None]).squeeze(1).float().sub_(peak).mul_(mine)
        total = torch.empty_like(peak)
        exponents = logits.detach()
        for first in range(0, len(logits), ROWS):
            rows = slice(first, first + ROWS)
            wide = exponents[rows].float().sub_(peak[rows, None]).exp_()
            total[rows] = wide.sum(-1)
            exponents[rows] = wide
        sums = torch.stack([target, total])
        dist.all_reduce(sums, group=group)
        ctx.save_for_backward(exponents, local, mine, sums[1])
        return sums[1].log() - sums[0]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        exponents, local, mine, total = ctx.saved_tensors
        grad = exponents.mul_((grads[0] / total).to(exponents.dtype)[:, None])
        at_label = torch.where(mine, -grads[0], 0.0).to(grad.dtype)
        grad[torch.arange(len(local), device=local.device), local] += at_label
        return grad, None, None
