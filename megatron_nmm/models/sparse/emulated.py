"""Sparse experts whose products are emulated in 8 bits: each expert's matrices and rows are cast by themselves.

Shapes: R rows, H width, F hidden width, L experts of this rank, n rows of one expert.
"""

from functools import partial
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from torch.nn.functional import silu

from megatron_nmm.config import PrecisionConfig
from megatron_nmm.models.sparse.experts import SparseExperts
from megatron_nmm.precision import product as in_8_bits
from megatron_nmm.precision.casts import BLOCKS, Casts
from megatron_nmm.precision.emulate import casts_of
from megatron_nmm.precision.product import Counts


class EmulatedExperts(SparseExperts):
    """One expert after the other; with delayed scaling the ranks that hold the same expert share its amaxes."""

    def __init__(self, num_local_experts: int, config: Any, *, precision: PrecisionConfig, **settings: Any) -> None:
        """As SparseExperts."""
        super().__init__(num_local_experts, config, **settings)
        group = None if precision.recipe in BLOCKS else self._groups.expt_dp
        self.expert_casts = torch.nn.ModuleList(torch.nn.Module() for _ in range(2 * num_local_experts))
        """Hold the buffers of delayed scaling: two products of each expert."""
        device = self.linear_fc1.weight.device
        casts = [casts_of(precision, owner, group, device) for owner in self.expert_casts]
        self.products = {
            "linear_fc1": [(each, Counts()) for each in casts[::2]],
            "linear_fc2": [(each, Counts()) for each in casts[1::2]],
        }

    def product(
        self, rows_RH: torch.Tensor, fc1: torch.Tensor, fc2: torch.Tensor, tokens_per_expert: torch.Tensor
    ) -> torch.Tensor:
        """As Product; rows behind the last segment give zero."""
        sizes = tokens_per_expert.tolist()
        sizes.append(len(rows_RH) - sum(sizes))
        *segments, rest = rows_RH.split(sizes)
        weights = zip(segments, fc1.unbind(), fc2.unbind(), strict=True)
        answers = [self._expert(number, rows, *matrices) for number, (rows, *matrices) in enumerate(weights)]
        return torch.cat([*answers, torch.zeros_like(rest)])

    def _expert(self, number: int, rows_nH: torch.Tensor, fc1: torch.Tensor, fc2: torch.Tensor) -> torch.Tensor:
        """[n, H] -> [n, H] through one expert; n may be 0."""
        gate, up = self._product("linear_fc1", number, rows_nH, fc1).chunk(2, -1)
        return self._product("linear_fc2", number, silu(gate) * up, fc2)

    def _product(self, name: str, number: int, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        casts: Casts
        casts, counts = self.products[name][number]
        recomputes = self.config.recompute_granularity == "full"
        return in_8_bits.product(rows, weight, casts, counts, recomputes=recomputes, training=self.training)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """As SparseExperts; buffers of delayed scaling lie on the axis of experts as well, two to each."""
        entries = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        place, count = self._groups.ep.rank(), self._groups.ep.size()
        axis, local = len(sharded_offsets), len(self.expert_casts)
        for number, owner in enumerate(self.expert_casts):
            for name, buffer in owner.named_buffers():
                entries[f"{prefix}expert_casts.{number}.{name}"] = ShardedTensor.from_rank_offsets(
                    f"{prefix}experts.{name}",
                    buffer,
                    *sharded_offsets,
                    (axis, place * local + number, count * local),
                    replica_id=(0, 0, self._groups.expt_dp.rank()),
                    prepend_axis_num=axis + 1,
                )
        return entries


def emulated_experts(precision: PrecisionConfig) -> Any:
    """What builds experts that multiply by the recipe."""
    return partial(EmulatedExperts, precision=precision)
