"""The decoder as a spec tree: one function for every variant, leaves chosen by the device, never by an ``if``."""

from functools import partial
from typing import Any

from megatron_nmm.config import ModelConfig
from megatron_nmm.models.attention.core import PackedAttention
from megatron_nmm.models.norm import RMSNorm


def decoder_layer(model: ModelConfig) -> Any:
    """ModuleSpec of one pre-norm transformer layer: packed attention with QK-norm, then a SwiGLU MLP."""
    from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.mlp import MLP, MLPSubmodules
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

    head_norm = RMSNorm if model.qk_norm else None
    attention = SelfAttentionSubmodules(
        linear_qkv=ColumnParallelLinear,
        core_attention=PackedAttention,
        linear_proj=RowParallelLinear,
        q_layernorm=head_norm,
        k_layernorm=head_norm,
    )
    mlp = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=ModuleSpec(
                module=SelfAttention, params={"attn_mask_type": AttnMaskType.causal}, submodules=attention
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=RMSNorm,
            mlp=partial(MLP.as_mlp_submodule, submodules=mlp),
            mlp_bda=get_bias_dropout_add,
        ),
    )


def decoder_block(model: ModelConfig, layers: int) -> Any:
    """Submodules of a TransformerBlock of ``layers`` layers and a final norm."""
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

    return TransformerBlockSubmodules(layer_specs=[decoder_layer(model)] * layers, layer_norm=RMSNorm)
