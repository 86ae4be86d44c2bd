"""A layer of sparse experts written out token by token, and its losses.

Shapes: T tokens, E experts, K choices, H width, F hidden width. ``kind`` is that of SparsePlan.
"""

import torch
from torch.nn.functional import silu

from megatron_nmm.config.schema_model import SparseConfig
from megatron_nmm.models.sparse.plan import PADDING

State = dict[str, torch.Tensor]
"""router.weight [E, H], experts.linear_fc1.weight [E, 2F, H], experts.linear_fc2.weight [E, H, F]."""


def scores_of(logits: torch.Tensor, sparse: SparseConfig) -> torch.Tensor:
    """[E] -> [E]"""
    return logits.softmax(0) if sparse.score == "softmax" else logits.sigmoid()


def chosen(logits: torch.Tensor, sparse: SparseConfig, bias: torch.Tensor | None) -> list[int]:
    """The experts of one token: highest score plus bias, the lower index among equals."""
    ranked = scores_of(logits, sparse) + (0 if bias is None else bias)
    return sorted(range(len(ranked)), key=lambda expert: (-float(ranked[expert]), expert))[: sparse.top_k]


def layer(
    x: torch.Tensor, state: State, sparse: SparseConfig, kind: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """[T, H] -> [T, H]; padding gives zero."""
    out = []
    for row, what in zip(x, kind.tolist(), strict=True):
        logits = state["router.weight"] @ row
        experts = chosen(logits, sparse, bias)
        weights = scores_of(logits, sparse)[experts]
        if sparse.normalise:
            total = weights.sum()
            weights = weights / (total.detach() if sparse.top_k == 1 else total)
        answer = torch.zeros_like(row)
        for expert, weight in zip(experts, weights, strict=True):
            gate, up = (state["experts.linear_fc1.weight"][expert] @ row).chunk(2)
            answer = answer + weight * (state["experts.linear_fc2.weight"][expert] @ (silu(gate) * up))
        out.append(answer * (what != PADDING))
    return torch.stack(out)


def balance(
    x: torch.Tensor, state: State, sparse: SparseConfig, kind: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """E sum_e f_e P_e of the tokens of one unit, times how many they are."""
    real = [row for row, what in zip(x, kind.tolist(), strict=True) if what != PADDING]
    logits = [state["router.weight"] @ row for row in real]
    scores = [scores_of(one, sparse) for one in logits]
    mean = torch.stack([one / one.sum() for one in scores]).mean(0)
    counts = torch.zeros(sparse.experts, dtype=x.dtype)
    for one in logits:
        counts[chosen(one, sparse, bias)] += 1
    return sparse.experts * (counts / counts.sum() * mean).sum() * len(real)


def z(x: torch.Tensor, state: State, kind: torch.Tensor) -> torch.Tensor:
    """Sum over tokens of the squared log-sum-exp of their logits."""
    real = x[kind != PADDING]
    return (real @ state["router.weight"].T).logsumexp(-1).square().sum()
