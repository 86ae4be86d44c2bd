"""The losses that keep a router's load even and its logits small, per real token: padding never counts.

Shapes: T tokens of this rank, E experts, K choices a token, U units of balance (plan.py). Sums over the ranks that
share a microbatch add up to the loss of the whole; each rank holds the gradient of its own tokens.
"""

import torch
import torch.distributed as dist

from megatron_nmm.config.schema_model import RouterScore
from megatron_nmm.models.sparse.plan import SparsePlan

SMALLEST_SUM = 1e-20
"""Keeps sigmoid scores that all underflow from being divided by zero."""


def shares_of_scores(logits_TE: torch.Tensor, score: RouterScore) -> torch.Tensor:
    """[T, E] fp32 logits -> [T, E] scores of each token that sum to 1."""
    if score == "softmax":
        return logits_TE.softmax(-1)
    scores = logits_TE.sigmoid()
    return scores / (scores.sum(-1, keepdim=True) + SMALLEST_SUM)


def choices_per_unit(
    experts_TK: torch.Tensor, plan: SparsePlan, num_experts: int, group: dist.ProcessGroup
) -> torch.Tensor:
    """[T, K] chosen experts -> [U, E] fp32 choices of each unit's tokens, over all ranks of ``group``.

    ``group`` shares the tokens of a microbatch: tensor ranks under sequence parallelism, and context ranks.
    """
    chosen = torch.zeros(len(experts_TK), num_experts, device=experts_TK.device)
    chosen.scatter_(1, experts_TK.long(), 1.0)
    counts: torch.Tensor = plan.members @ chosen
    if dist.get_world_size(group) > 1:
        dist.all_reduce(counts, group=group)
    return counts


def balance_sum(scores_TE: torch.Tensor, counts_UE: torch.Tensor, plan: SparsePlan, top_k: int) -> torch.Tensor:
    """This rank's share of the sum over tokens of their unit's balance loss E sum_e f_e P_e.

    f_e is the share of a unit's choices that fell on expert e, P_e the mean score of e over the unit's tokens (Switch
    Transformer, arXiv 2101.03961, section 2.2). 1 a token when both are even. Differentiable in the scores.
    """
    scores_UE = plan.members @ scores_TE
    shares_UE = counts_UE / (top_k * plan.filled[:, None])
    return scores_TE.shape[1] * (shares_UE * scores_UE).sum()


def z_sum(logits_TE: torch.Tensor, plan: SparsePlan) -> torch.Tensor:
    """This rank's share of the sum over tokens of the squared log-sum-exp of the logits (ST-MoE, section 3.1)."""
    return (plan.members @ logits_TE.logsumexp(-1).square()).sum()
