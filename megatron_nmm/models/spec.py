"""The decoder as a spec tree: one function for every variant, leaves chosen by the device, never by an ``if``."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from megatron_nmm.config import ModelConfig
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


def decoder_layer(model: ModelConfig, leaves: Leaves) -> Any:
    """ModuleSpec of one pre-norm transformer layer: packed attention with QK-norm, then a SwiGLU MLP."""
    from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.mlp import MLP, MLPSubmodules
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

    head_norm = leaves.norm if model.qk_norm else None
    attention = SelfAttentionSubmodules(
        linear_qkv=ColumnParallelLinear,
        core_attention=PackedAttention,
        linear_proj=RowParallelLinear,
        q_layernorm=head_norm,
        k_layernorm=head_norm,
    )
    mlp = MLPSubmodules(
        linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear, activation_func=leaves.activation
    )
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=leaves.norm,
            self_attention=ModuleSpec(
                module=SelfAttention, params={"attn_mask_type": AttnMaskType.causal}, submodules=attention
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=leaves.norm,
            mlp=partial(MLP.as_mlp_submodule, submodules=mlp),
            mlp_bda=get_bias_dropout_add,
        ),
    )


def decoder_block(model: ModelConfig, elementwise: Elementwise, layers: int) -> Any:
    """Submodules of a TransformerBlock of ``layers`` layers and a final norm."""
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

    leaves = LEAVES[elementwise]
    return TransformerBlockSubmodules(layer_specs=[decoder_layer(model, leaves)] * layers, layer_norm=leaves.norm)
