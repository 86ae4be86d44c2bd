"""The router: scores each token's experts in fp32, chooses, balances.

Shapes: T tokens of this rank, E experts, K choices.

megatron-core's TopKRouter keeps the weight, the bias and its update between steps. The choice is
``torch.ops.nmm.route``, and the losses count real tokens only, where megatron-core's scale with supervised ones.
"""

from typing import Any

import torch
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from megatron.core.transformer.moe.router import TopKRouter

from megatron_nmm.config.schema_model import SparseConfig
from megatron_nmm.models.planned import Planned
from megatron_nmm.models.sparse.balance import balance_sum, choices_per_unit, shares_of_scores, z_sum
from megatron_nmm.models.sparse.plan import PADDING, SparsePlan


class SparseRouter(Planned, TopKRouter):
    """[T, 1, H] -> where each token goes, as the dispatcher wants it."""

    def __init__(self, *arguments: Any, sparse: SparseConfig, many_hot: bool, **settings: Any) -> None:
        """As megatron-core's. ``many_hot``: for megatron-core's dispatchers, which take [T, E] maps."""
        super().__init__(*arguments, **settings)
        self._sparse, self._many_hot = sparse, many_hot
        self.experts: torch.Tensor | None = None
        """[T, K] int32, the last choice; padding's is E. For telemetry."""
        self.losses: tuple[torch.Tensor, torch.Tensor] | None = None
        """The last training pass's sums over this rank's tokens of the balance and the z-loss, unweighted."""

    def forward(
        self, input: torch.Tensor, padding_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities [T, K] fp32 and experts [T, K] int32, a padding's expert being E, which is none;
        with ``many_hot`` probabilities [T, E] and a map [T, E] bool, where padding goes to its experts as well."""
        self._maintain_float32_expert_bias()
        logits = self.gating(input).view(-1, self.num_experts)
        probabilities, experts = self._choose(logits)
        plan: SparsePlan = self.plan.sparse
        if self.training and torch.is_grad_enabled():
            probabilities = self._balance(probabilities, logits, experts, plan)
        self.experts = experts.masked_fill((plan.kind == PADDING)[:, None], self.num_experts)
        if not self._many_hot:
            return probabilities, self.experts
        nowhere = torch.zeros_like(logits)
        return nowhere.scatter(1, experts.long(), probabilities), nowhere.bool().scatter(1, experts.long(), True)

    def _choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[T, E] -> probabilities [T, K], experts [T, K]."""
        one = self._sparse.normalise and self.topk == 1
        normalise = self._sparse.normalise and not one
        probabilities, experts, _ = torch.ops.nmm.route(
            logits, self.topk, self._sparse.score, normalise, self.expert_bias
        )
        # A score over itself is exactly 1 and would teach the router nothing: the divisor is held still.
        return probabilities / probabilities.detach() if one else probabilities, experts

    def _balance(
        self, probabilities: torch.Tensor, logits: torch.Tensor, experts: torch.Tensor, plan: SparsePlan
    ) -> torch.Tensor:
        """``probabilities`` with the gradient of the losses attached; counts what the bias is moved by.

        A recomputed layer comes here once: its first pass builds no graph.
        """
        counts = choices_per_unit(experts, plan, self.num_experts, self.tp_cp_group)
        scores = shares_of_scores(logits, self._sparse.score)
        balance = balance_sum(scores, counts, plan, self.topk)
        z = z_sum(logits, plan)
        self.losses = (balance.detach(), z.detach())
        if self.enable_expert_bias:
            # megatron-core sums over all ranks of a stage before it moves the bias by the sign of what is missing;
            # those that share a microbatch count alike here.
            self.local_tokens_per_expert += counts.detach().sum(0)
        weighted = self._sparse.balance_loss * balance + self._sparse.z_loss * z
        attached: torch.Tensor = MoEAuxLossAutoScaler.apply(probabilities, weighted * plan.loss_scale)
        return attached
