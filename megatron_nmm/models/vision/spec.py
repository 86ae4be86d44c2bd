"""The encoder as a spec tree: megatron-core layers with bidirectional packed attention, leaves chosen by the device."""

from dataclasses import replace
from functools import partial
from typing import Any

from megatron_nmm.config.schema_model import VisionConfig
from megatron_nmm.models.attention.core import PackedAttention, WindowAttention
from megatron_nmm.models.leaves import Leaves
from megatron_nmm.models.norm import LayerNorm
from megatron_nmm.models.spec import NORMS_IN_LINEAR, norm_and_column
from megatron_nmm.models.vision.gelu import Gelu
from megatron_nmm.models.vision.layer_scale import LayerScale


def encoder_layer(vision: VisionConfig, config: Any, leaves: Leaves, windowed: bool) -> Any:
    """ModuleSpec of one pre-norm layer; ``config`` is the encoder's TransformerConfig."""
    from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.mlp import MLP, MLPSubmodules
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

    norm, column = norm_and_column(replace(leaves, norm=stream_norm(vision, leaves)), ColumnParallelLinear)
    head_norm = leaves.norm if vision.qk_norm else None
    join: Any = get_bias_dropout_add
    if vision.layer_scale:
        join = ModuleSpec(module=LayerScale, params={"config": config, "start": vision.layer_scale})
    attention = SelfAttentionSubmodules(
        linear_qkv=partial(_biased, column, vision.qkv_bias),
        core_attention=WindowAttention if windowed else PackedAttention,
        linear_proj=leaves.linear(RowParallelLinear),
        q_layernorm=head_norm,
        k_layernorm=head_norm,
    )
    mlp = MLPSubmodules(
        linear_fc1=column,
        linear_fc2=leaves.linear(RowParallelLinear),
        activation_func=Gelu if vision.mlp == "gelu" else leaves.activation,
    )
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm,
            self_attention=ModuleSpec(
                module=SelfAttention, params={"attn_mask_type": AttnMaskType.no_mask}, submodules=attention
            ),
            self_attn_bda=join,
            pre_mlp_layernorm=norm,
            mlp=partial(MLP.as_mlp_submodule, submodules=mlp),
            mlp_bda=join,
            sharded_state_dict_keys_map=NORMS_IN_LINEAR if leaves.norm_and_column else {},
        ),
    )


def stream_norm(vision: VisionConfig, leaves: Leaves) -> Any:
    """What norms the residual stream."""
    return {"rms": leaves.norm, "layer": LayerNorm}[vision.norm]


def _biased(build: Any, biased: bool, *args: Any, **kwargs: Any) -> Any:
    """Queries, keys and values have biases or none, whatever the other matrices have (NaViL)."""
    return build(*args, **{**kwargs, "bias": biased})


def encoder_block(vision: VisionConfig, config: Any, leaves: Leaves) -> Any:
    """Submodules of a TransformerBlock of ``vision.depth`` layers, with a final norm where ``vision`` has one."""
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

    windowed = [bool(vision.window) and layer not in vision.full_layers for layer in range(vision.depth)]
    return TransformerBlockSubmodules(
        layer_specs=[encoder_layer(vision, config, leaves, each) for each in windowed],
        layer_norm=stream_norm(vision, leaves) if vision.final_norm else None,
    )
