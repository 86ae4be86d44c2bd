"""Next-token cross entropy over a vocabulary split between tensor ranks."""

from typing import Any

import torch


def token_losses(logits: torch.Tensor, labels: torch.Tensor, tensor_group: Any) -> torch.Tensor:
    """[N, V / t] scores and [N] labels -> [N] fp32 losses in nats, the same on every tensor rank."""
    from megatron.core.tensor_parallel.cross_entropy import vocab_parallel_cross_entropy

    losses: torch.Tensor = vocab_parallel_cross_entropy(logits, labels, tp_group=tensor_group)
    return losses
