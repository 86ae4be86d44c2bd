"""From the decoder's TransformerConfig to the encoder's: one table of what differs."""

from dataclasses import replace
from typing import Any

import torch

from megatron_nmm.config.schema_model import VisionConfig
from megatron_nmm.models.vision.placement import Placement

ACTIVATIONS = {"swiglu": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu}
"""torch functions behind VisionConfig.mlp."""
NORMS = {"rms": "RMSNorm", "layer": "LayerNorm"}
"""megatron-core's words for VisionConfig.norm."""


def encoder_config(vision: VisionConfig, config: Any, placed: Placement) -> Any:
    """``config`` (models/to_mcore.py) with the encoder's shape; what is not named here it shares with the decoder."""
    gated = vision.mlp == "swiglu"
    whole = placed == "data"
    # GELU is a module of ours (spec.py): megatron-core's fused one is the tanh approximation and demands a bias.
    own_activation = not gated or config.use_te_activation_func
    return replace(
        config,
        # shape
        num_layers=vision.depth,
        hidden_size=vision.width,
        ffn_hidden_size=vision.ffn_width,
        num_attention_heads=vision.heads,
        num_query_groups=vision.heads,
        kv_channels=vision.head_width,
        gated_linear_unit=gated,
        activation_func=ACTIVATIONS[vision.mlp],
        use_te_activation_func=own_activation,
        bias_activation_fusion=not own_activation and config.bias_activation_fusion,
        add_bias_linear=vision.bias,
        num_moe_experts=None,
        moe_ffn_hidden_size=None,
        moe_router_enable_expert_bias=False,
        expert_model_parallel_size=1,
        normalization=NORMS[vision.norm],
        layernorm_epsilon=vision.norm_epsilon,
        qk_layernorm=vision.qk_norm,
        first_last_layers_bf16=False,  # the decoder's
        # drawn for this depth, not the decoder's
        init_method=None,
        output_layer_init_method=None,
        # layout: all of it stands on the first pipeline stage, and context ranks take whole views
        pipeline_model_parallel_size=1,
        virtual_pipeline_model_parallel_size=None,
        pipeline_model_parallel_layout=None,
        num_layers_in_first_pipeline_stage=None,
        num_layers_in_last_pipeline_stage=None,
        context_parallel_size=1,
        tensor_model_parallel_size=1 if whole else config.tensor_model_parallel_size,
        expert_tensor_parallel_size=1 if whole else config.tensor_model_parallel_size,
        sequence_parallel=config.sequence_parallel and not whole,
    )
