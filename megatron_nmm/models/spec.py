"""The decoder as a spec tree: one function for every variant, leaves chosen by tables, never by an ``if``."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from megatron_nmm.config import ModelConfig, RunConfig
from megatron_nmm.config.schema_model import ModalityExperts
from megatron_nmm.device.protocol import Elementwise
from megatron_nmm.models.attention.core import PackedAttention
from megatron_nmm.models.norm import FewPassRMSNorm, RMSNorm
from megatron_nmm.models.planned import PlannedLayer
from megatron_nmm.models.sparse.experts import GroupedExperts, LoopedExperts, SparseExperts
from megatron_nmm.models.swiglu import SwiGLU


@dataclass(frozen=True)
class Leaves:
    """The modules a device brings to the tree."""

    norm: type[RMSNorm]
    activation: type[SwiGLU] | None
    """None = megatron-core's own fused SwiGLU."""
    experts: type[SparseExperts]


LEAVES: dict[Elementwise, Leaves] = {
    "compiled": Leaves(RMSNorm, None, GroupedExperts),
    "few_passes": Leaves(FewPassRMSNorm, SwiGLU, LoopedExperts),
}


@dataclass(frozen=True)
class Branch:
    """A module of the residual stream with the linear layers it needs."""

    module: Any
    column: Any
    row: Any


@dataclass(frozen=True)
class Branches:
    """The two branches of a transformer layer."""

    attention: Branch
    mlp: Branch


def branches() -> dict[ModalityExperts, Branches]:
    """Which modules carry each kind of modality experts."""
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.attention import SelfAttention
    from megatron.core.transformer.mlp import MLP

    from megatron_nmm.models.experts.attention import ModalitySelfAttention
    from megatron_nmm.models.experts.linear import LocalColumnParallelLinear, LocalRowParallelLinear
    from megatron_nmm.models.experts.mlp import ModalityMLP

    attention = Branch(SelfAttention, ColumnParallelLinear, RowParallelLinear)
    mlp = Branch(MLP, ColumnParallelLinear, RowParallelLinear)
    expert_attention = Branch(ModalitySelfAttention, LocalColumnParallelLinear, LocalRowParallelLinear)
    expert_mlp = Branch(ModalityMLP, LocalColumnParallelLinear, LocalRowParallelLinear)
    return {
        "none": Branches(attention, mlp),
        "ffn": Branches(attention, expert_mlp),
        "all": Branches(expert_attention, expert_mlp),
    }


def dense_mlp(model: ModelConfig, leaves: Leaves) -> Any:
    """What builds a layer's SwiGLU MLP, one for all tokens or one for each modality."""
    from megatron.core.transformer.mlp import MLPSubmodules

    mlp = branches()[model.modality_experts].mlp
    parts = MLPSubmodules(linear_fc1=mlp.column, linear_fc2=mlp.row, activation_func=leaves.activation)
    return partial(mlp.module.as_mlp_submodule, submodules=parts)


def sparse_mlp(run: RunConfig, leaves: Leaves) -> Any:
    """What builds a layer's sparse experts."""
    # Here, because nmm_kernels is needed by no other model.
    from megatron_nmm.models.sparse.mlp import SparseMLP

    return partial(SparseMLP, sparse=run.model.sparse, dispatcher=run.parallel.dispatcher, experts=leaves.experts)


def decoder_layer(model: ModelConfig, leaves: Leaves, mlp: Any) -> Any:
    """ModuleSpec of one pre-norm transformer layer: packed attention with QK-norm, then what ``mlp`` builds."""
    from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
    from megatron.core.transformer.attention import SelfAttentionSubmodules
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.transformer_layer import TransformerLayerSubmodules

    parts = branches()[model.modality_experts].attention
    head_norm = leaves.norm if model.qk_norm else None
    attention = SelfAttentionSubmodules(
        linear_qkv=parts.column,
        core_attention=PackedAttention,
        linear_proj=parts.row,
        q_layernorm=head_norm,
        k_layernorm=head_norm,
    )
    return ModuleSpec(
        module=PlannedLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=leaves.norm,
            self_attention=ModuleSpec(
                module=parts.module, params={"attn_mask_type": AttnMaskType.causal}, submodules=attention
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=leaves.norm,
            mlp=mlp,
            mlp_bda=get_bias_dropout_add,
        ),
    )


def decoder_block(run: RunConfig, elementwise: Elementwise, layers: range) -> Any:
    """Submodules of a TransformerBlock of the decoder's ``layers`` (from 0) and a final norm."""
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

    model, leaves = run.model, LEAVES[elementwise]
    sparse = set(model.sparse_layers)
    specs = [
        decoder_layer(model, leaves, sparse_mlp(run, leaves) if layer in sparse else dense_mlp(model, leaves))
        for layer in layers
    ]
    return TransformerBlockSubmodules(layer_specs=specs, layer_norm=leaves.norm)
