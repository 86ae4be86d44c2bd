"""megatron-core's layers on Transformer Engine as leaves of the spec trees, from megatron-core's own spec provider.

Loaded on a GPU alone, where Transformer Engine is. Attention is chosen with the mask (attention/core.py).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from megatron.core.extensions.transformer_engine_spec_provider import TESpecProvider
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.moe.experts import TEGroupedMLP
from torch.nn.functional import silu

from megatron_nmm.models.experts.attention import ModalityProjection, ProjectionByModality
from megatron_nmm.models.experts.linear import LocalColumnParallelLinear, LocalRowParallelLinear

Build = Callable[..., Any]


class EngineExperts(TEGroupedMLP):
    """megatron-core's experts in one grouped product, under the interface of our dispatcher."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """As megatron-core's."""
        super().__init__(*arguments, **settings)
        for weight in self.parameters():
            # As of SparseExperts: they lie with a group of their own, whatever its size.
            weight.allreduce = False

    def forward(
        self, rows_RH: torch.Tensor, tokens_per_expert: torch.Tensor, probabilities: torch.Tensor, *more: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As SparseExperts: [R, H] rows, those of each expert together and a whole multiple -> [R, H]. The host learns
        their sizes, which Transformer Engine asks for."""
        if probabilities.dim() == 1:
            answers: tuple[torch.Tensor, torch.Tensor | None] = super().forward(
                rows_RH, tokens_per_expert, probabilities, *more
            )
            return answers
        sizes = tokens_per_expert.tolist()
        # Rows behind the last segment are zeros that nobody reads; they must belong to somebody.
        sizes[-1] += len(rows_RH) - sum(sizes)
        gate, up = self.linear_fc1(rows_RH, sizes)[0].chunk(2, -1)
        return self.linear_fc2(silu(gate) * up, sizes)[0], None


def linear_layers() -> dict[type, Build]:
    """Our parallel linear layers -> what builds the same on Transformer Engine."""
    provider = TESpecProvider()
    column, row = provider.column_parallel_linear(), provider.row_parallel_linear()

    class EngineProjection(ProjectionByModality, row):  # type: ignore[misc, valid-type]
        """ModalityProjection on Transformer Engine."""

    return {
        ColumnParallelLinear: column,
        RowParallelLinear: row,
        LocalColumnParallelLinear: partial(_silent, column),
        LocalRowParallelLinear: partial(_silent, row),
        ModalityProjection: partial(_silent, EngineProjection),
    }


def norm_and_column() -> Build:
    """What builds a norm with the column-parallel layer behind it, in one."""
    fused: Build | None = TESpecProvider().column_parallel_layer_norm_linear()
    assert fused is not None, "megatron-core's Transformer Engine provider has such a layer"
    return fused


def grouped_experts() -> Build:
    """What builds the experts of a rank."""
    theirs: Any = TESpecProvider().grouped_mlp_modules(moe_use_grouped_gemm=True)
    return partial(EngineExperts, submodules=theirs.keywords["submodules"])


def _silent(build: Build, *sizes: Any, **settings: Any) -> Any:
    """A layer that leaves communication to its caller: megatron-core's word for that is ``is_expert``."""
    return build(*sizes, **{**settings, "is_expert": True})
