"""The decoder as a spec tree: one function for every variant, leaves chosen by tables, never by an ``if``."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from megatron_nmm.config import ModelConfig
from megatron_nmm.config.schema import ModalityExperts
from megatron_nmm.device.protocol import Elementwise
from megatron_nmm.models.attention.core import PackedAttention
from megatron_nmm.models.norm import FewPassRMSNorm, RMSNorm
from megatron_nmm.models.swiglu import SwiGLU


@dataclass(frozen=True)
class Leaves:
    """The modules a device brings to the tree."""

    norm: type[RMSNorm]
    activation: type[SwiGLU] | None
    """None = megatron-core's own fused SwiGLU."""


LEAVES: dict[Elementwise, Leaves] = {
    "compiled": Leaves(RMSNorm, None),
    "few_passes": Leaves(FewPassRMSNorm, SwiGLU),
}


@dataclass(frozen=True)
class Branch:
    """A module of the residual stream with the linear layers it needs."""

    module: Any
    column: Any
    row: Any


@dataclass(frozen=True)
class Branches:
    """A transformer layer and its two branches."""

    layer: Any
    attention: Branch
    mlp: Branch


def branches() -> dict[ModalityExperts, Branches]:
    """Which modules carry each kind of modality experts."""
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.attention import SelfAttention
    from megatron.core.transformer.mlp import MLP
    from megatron.core.transformer.transformer_layer import TransformerLayer

    from megatron_nmm.models.experts.attention import ModalitySelfAttention
    from megatron_nmm.models.experts.layer import ModalityLayer
    from megatron_nmm.models.experts.linear import LocalColumnParallelLinear, LocalRowParallelLinear
    from megatron_nmm.models.experts.mlp import ModalityMLP

    attention = Branch(SelfAttention, ColumnParallelLinear, RowParallelLinear)
    mlp = Branch(MLP, ColumnParallelLinear, RowParallelLinear)
    expert_attention = Branch(ModalitySelfAttention, LocalColumnParallelLinear, LocalRowParallelLinear)
    expert_mlp = Branch(ModalityMLP, LocalColumnParallelLinear, LocalRowParallelLinear)
    return {
        "none": Branches(TransformerLayer, attention, mlp),
        "ffn": Branches(ModalityLayer, attention, expert_mlp),
        "all": Branches(ModalityLayer, expert_attention, expert_mlp),
    }


def decoder_layer(model: ModelConfig, leaves: Leaves) -> Any:
    """ModuleSpec of one pre-norm transformer layer: packed attention with QK-norm, then a SwiGLU MLP."""
    from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
    from megatron.core.transformer.attention import SelfAttentionSubmodules
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.mlp import MLPSubmodules
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.transformer_layer import TransformerLayerSubmodules

    parts = branches()[model.modality_experts]
    head_norm = leaves.norm if model.qk_norm else None
    attention = SelfAttentionSubmodules(
        linear_qkv=parts.attention.column,
        core_attention=PackedAttention,
        linear_proj=parts.attention.row,
        q_layernorm=head_norm,
        k_layernorm=head_norm,
    )
    mlp = MLPSubmodules(linear_fc1=parts.mlp.column, linear_fc2=parts.mlp.row, activation_func=leaves.activation)
    return ModuleSpec(
        module=parts.layer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=leaves.norm,
            self_attention=ModuleSpec(
                module=parts.attention.module, params={"attn_mask_type": AttnMaskType.causal}, submodules=attention
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=leaves.norm,
            mlp=partial(parts.mlp.module.as_mlp_submodule, submodules=mlp),
            mlp_bda=get_bias_dropout_add,
        ),
    )


def decoder_block(model: ModelConfig, elementwise: Elementwise, layers: int) -> Any:
    """Submodules of a TransformerBlock of ``layers`` layers and a final norm."""
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

    leaves = LEAVES[elementwise]
    return TransformerBlockSubmodules(layer_specs=[decoder_layer(model, leaves)] * layers, layer_norm=leaves.norm)
