"""The experts of one rank: SwiGLU MLPs whose weights stand in one tensor each, run on rows sorted by expert.

megatron-core 0.19.2 has experts as a list of MLPs, one launch after the other, or as Transformer Engine's; these serve
where that is not installed. Checkpoints are those of both: the same names, shapes and axis of experts.
Shapes: R rows, H width, F hidden width of an expert, L experts of this rank, E of all ranks.
"""

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer.module import MegatronModule

from megatron_nmm.device import seed as random_states
from megatron_nmm.device.protocol import WRITES_GRADIENT
from megatron_nmm.models.sparse.grouped import grouped_mlp
from megatron_nmm.models.sparse.looped import looped_mlp

Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(rows [R, H], fc1 [L, 2F, H], fc2 [L, H, F], rows of each expert [L]) -> [R, H]."""


class ExpertWeights(torch.nn.Module):
    """[L, outputs, inputs]: one matrix of every expert of this rank."""

    def __init__(self, shape: tuple[int, int, int], config: Any, init_method: Callable[..., Any]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(shape, dtype=config.params_dtype))
        if config.perform_initialization:
            with random_states.of_experts():
                for expert in self.weight:
                    init_method(expert.data)
        # No two tensor ranks hold the same experts, so each counts its own in the gradient norm.
        set_tensor_model_parallel_attributes(self.weight, True, 1, 1)
        # megatron-core's word for a weight that lies with a group of its own (the ranks that hold the same experts).
        self.weight.allreduce = False  # type: ignore[attr-defined]

    def forward(self) -> torch.Tensor:
        """The weights; a call, because megatron-core's hooks wait for weights that are gathered on the way."""
        return self.weight


class SparseExperts(MegatronModule):
    """megatron-core's interface of experts. Every one has a gradient, also when it got no token: zero."""

    product: Product
    overwrites = False
    """Whether ``product`` keeps the promise of WRITES_GRADIENT."""

    def __init__(self, num_local_experts: int, config: Any, pg_collection: Any = None, name: str | None = None) -> None:
        """``config`` gives width, hidden width of an expert and how weights are drawn."""
        super().__init__(config=config)
        self._groups = pg_collection
        width, hidden = config.hidden_size, config.moe_ffn_hidden_size
        self.linear_fc1 = ExpertWeights((num_local_experts, 2 * hidden, width), config, config.init_method)
        self.linear_fc2 = ExpertWeights((num_local_experts, width, hidden), config, config.output_layer_init_method)
        for weights in (self.linear_fc1, self.linear_fc2):
            setattr(weights, WRITES_GRADIENT, self.overwrites)

    def forward(
        self, rows_RH: torch.Tensor, tokens_per_expert: torch.Tensor, probabilities: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        """[R, H] rows, those of each expert together -> [R, H], and no bias.

        ``probabilities`` [R] weigh each row's answer; [T, K] ones are the dispatcher's own affair, which weighs answers
        where it adds them up.
        """
        out = self.product(rows_RH, self.linear_fc1(), self.linear_fc2(), tokens_per_expert)
        if probabilities.dim() == 1:
            out = (out * probabilities[:, None]).to(rows_RH.dtype)
        return out, None

    def backward_dw(self) -> None:
        """Weight gradients are never left for later."""

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """``<prefix>experts.linear_fc1.weight`` [E, 2F, H] and its like, as megatron-core stores others."""
        place, count = self._groups.ep.rank(), self._groups.ep.size()
        replica = (0, 0, self._groups.expt_dp.rank())
        axis = len(sharded_offsets)
        return {
            f"{prefix}{name}": ShardedTensor.from_rank_offsets(
                f"{prefix}experts.{name}",
                weight,
                *sharded_offsets,
                (axis, place, count),
                replica_id=replica,
                prepend_axis_num=axis,
            )
            for name, weight in self.named_parameters()
        }


class LoopedExperts(SparseExperts):
    """One expert after the other, idle ones left out: for processors."""

    product = staticmethod(looped_mlp)
    overwrites = True


class GroupedExperts(SparseExperts):
    """All experts in one grouped product: for GPUs."""

    product = staticmethod(grouped_mlp)
