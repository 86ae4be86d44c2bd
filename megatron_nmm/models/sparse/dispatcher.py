"""Tokens to their experts and back, over one all-to-all each way, on the operators of nmm_kernels.

Shapes: T tokens of this rank, K choices, H width, n ranks that share the experts, L experts a rank, R rows. Rows leave
sorted by expert, hence by rank; they arrive sorted by sender and are sorted by expert again. Probabilities stay home:
they weigh the answers where these are added up, which spares megatron-core's second all-to-all. Padding goes nowhere.
"""

from typing import Any

import nmm_kernels  # noqa: F401 - registers torch.ops.nmm
import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import all_to_all
from megatron.core.transformer.moe.token_dispatcher import MoETokenDispatcher
from nmm_kernels.dispatch_plan.rows import planned_rows


class KernelDispatcher(MoETokenDispatcher):
    """megatron-core's dispatcher protocol; what a forward pass learns on the way out, it reads on the way back."""

    def __init__(self, num_experts: int, config: Any, pg_collection: Any, align: int = 1) -> None:
        """``num_experts`` over all ranks, which the expert group divides evenly; each gets a multiple of ``align``
        rows, filled up with zeros, as products in 8 bits want it."""
        super().__init__(config=config, pg_collection=pg_collection)
        self._align = align
        self.num_experts, self.num_local_experts = num_experts, num_experts // self.ep_size

    def dispatch_preprocess(
        self, tokens: torch.Tensor, routing_map: torch.Tensor, probs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[T, 1, H] with experts [T, K] (``routing_map``) and their probabilities [T, K] -> rows by expert [T K, H]."""
        self._shape, self._probabilities = tokens.shape, probs
        # Rows that travel are not filled up: the ranks that receive them sort them once more.
        align = self._align if self.ep_size == 1 else 1
        self._home, self._counts, rows = self._plan(routing_map, self.num_experts, align)
        return torch.ops.nmm.permute(tokens.view(-1, tokens.shape[-1]), self._home, rows), probs

    @staticmethod
    def _plan(experts: torch.Tensor, num_experts: int, align: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        """[T, K] choices -> places [T, K], rows of each expert, zeros included, and the most rows of all."""
        place, counts, offsets = torch.ops.nmm.dispatch_plan(experts, num_experts, align)
        if align > 1:
            counts = offsets.diff().int()
        return place, counts, planned_rows(experts.numel(), num_experts, align)

    def token_dispatch(self, hidden_states: torch.Tensor, probs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows to the ranks of their experts. The sizes of what is sent come to the host, once a layer."""
        if self.ep_size == 1:
            return hidden_states, probs
        sent = self._counts.view(self.ep_size, self.num_local_experts)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent.contiguous(), group=self.ep_group)
        self._received = received
        self._out, self._in = torch.stack([sent.sum(1), received.sum(1)]).tolist()
        rows = all_to_all(self.ep_group, hidden_states[: sum(self._out)], self._in, self._out)
        return rows, probs

    def dispatch_postprocess(
        self, hidden_states: torch.Tensor, probs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows sorted by local expert, rows of each local expert [L], and the probabilities, which are not for here."""
        if self.ep_size == 1:
            return hidden_states, self._counts, probs
        per_expert = self._received.sum(0)
        self._place = None
        if self.num_local_experts > 1 or self._align > 1:
            local = torch.arange(self.num_local_experts, dtype=torch.int32, device=hidden_states.device)
            owner = local.repeat(self.ep_size).repeat_interleave(
                self._received.flatten(), output_size=len(hidden_states)
            )
            self._place, per_expert, rows = self._plan(owner[:, None], self.num_local_experts, self._align)
            hidden_states = torch.ops.nmm.permute(hidden_states, self._place, rows)
        return hidden_states, per_expert, probs

    def combine_preprocess(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The experts' answers in the order in which their rows arrived."""
        if self.ep_size == 1 or self._place is None:
            return hidden_states
        answers: torch.Tensor = torch.ops.nmm.combine(hidden_states, self._place, None)
        return answers

    def token_combine(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Answers back to the ranks whose tokens asked."""
        if self.ep_size == 1:
            return hidden_states
        answers: torch.Tensor = all_to_all(self.ep_group, hidden_states, self._out, self._in)
        return answers

    def combine_postprocess(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[R, H] answers -> [T, 1, H]: the sum over a token's experts, by probability; zero for padding."""
        out: torch.Tensor = torch.ops.nmm.combine(hidden_states, self._home, self._probabilities)
        # A module that keeps a tensor of the graph keeps itself alive through it, unseen by Python's collector.
        del self._probabilities
        return out.view(self._shape)
