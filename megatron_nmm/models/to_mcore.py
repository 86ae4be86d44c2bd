"""One table from our configuration to megatron-core's TransformerConfig."""

from typing import Any

import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.config.recipes import facts, gradient_format
from megatron_nmm.models.pipeline_plan import stage_layers
from megatron_nmm.parallel.gradients import finalize_gradients
from megatron_nmm.parallel.world import World
from megatron_nmm.precision.select import backend

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""torch types behind PrecisionConfig.dtype."""


def transformer_config(run: RunConfig, world: World) -> Any:
    """The TransformerConfig of the decoder. Fields not named here keep megatron-core's defaults."""
    from megatron.core.transformer.transformer_config import TransformerConfig

    model, parallel = run.model, run.parallel
    dtype = DTYPES[run.precision.dtype]
    compiled = world.device.elementwise == "compiled"
    config = TransformerConfig(
        # shape
        num_layers=model.layers,
        hidden_size=model.width,
        ffn_hidden_size=model.ffn_width,
        num_attention_heads=model.heads,
        num_query_groups=model.kv_heads,
        kv_channels=model.head_width,
        # P1 section 2: SwiGLU, QK-norm, no biases, no dropout
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        normalization="RMSNorm",
        layernorm_epsilon=model.norm_epsilon,
        qk_layernorm=model.qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        init_method_std=model.init_std,
        # layout
        tensor_model_parallel_size=parallel.tensor,
        context_parallel_size=parallel.context,
        sequence_parallel=parallel.sequence,
        **pipeline_settings(run),
        **RECOMPUTE[parallel.recompute],
        # numbers
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        # Gradients are sums over tokens, divided once by the global count of supervised tokens.
        calculate_per_token_loss=True,
        # megatron-core's elementwise fusions compile at run time.
        bias_activation_fusion=compiled,
        bias_dropout_fusion=compiled,
        # megatron-core's switch for an activation module of our own (models/spec.py).
        use_te_activation_func=not compiled,
        gradient_accumulation_fusion=world.device.fused_weight_gradient,
        **eight_bit_settings(run, world),
        **sparse_settings(run),
    )
    config.finalize_model_grads_func = finalize_gradients
    return config


RECOMPUTE: dict[str, dict[str, Any]] = {
    "none": {},
    "selective": {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]},
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}
"""ParallelConfig.recompute in megatron-core's words."""


def pipeline_settings(run: RunConfig) -> dict[str, Any]:
    """The stages; layers are laid out one by one, so virtual stages may be uneven too."""
    virtual = run.parallel.virtual_stages
    return {
        "pipeline_model_parallel_size": run.parallel.pipeline,
        "virtual_pipeline_model_parallel_size": virtual if virtual > 1 else None,
        "pipeline_model_parallel_layout": pipeline_layout(run),
    }


def eight_bit_settings(run: RunConfig, world: World) -> dict[str, Any]:
    """Those of a recipe that Transformer Engine runs; an emulated one is no affair of megatron-core's."""
    precision, row = run.precision, facts(run.precision)
    if row is None or backend(precision, world.device) != "transformer_engine":
        return {}
    return {
        "fp8": "hybrid" if gradient_format(precision) == "e5m2" else "e4m3",
        "fp8_recipe": row.engine,
        "fp8_param": precision.fp8_parameters,
        "fp8_amax_history_len": precision.amax_history,
        "fp8_amax_compute_algo": precision.amax_rule,
        "tp_only_amax_red": precision.amax_over == "tensor",
        "first_last_layers_bf16": precision.plain_first + precision.plain_last > 0,
        "num_layers_at_start_in_bf16": precision.plain_first,
        "num_layers_at_end_in_bf16": precision.plain_last,
    }


def sparse_settings(run: RunConfig) -> dict[str, Any]:
    """Those of sparse experts; the losses are models/sparse's own, so megatron-core's are off."""
    sparse, parallel = run.model.sparse, run.parallel
    if not run.model.sparse_layers:
        return {}
    from megatron_nmm.models.sparse.mlp import MCORE_DISPATCHERS

    return {
        "num_moe_experts": sparse.experts,
        "moe_ffn_hidden_size": run.model.expert_width,
        "moe_layer_freq": [int(layer in run.model.sparse_layers) for layer in range(run.model.layers)],
        "moe_router_topk": sparse.top_k,
        # Our router scores by itself; these are what megatron-core allows beside a bias and with top-1.
        "moe_router_score_function": "sigmoid",
        "moe_router_pre_softmax": True,
        "moe_router_load_balancing_type": "none",
        "moe_router_dtype": "fp32",
        "moe_router_enable_expert_bias": sparse.bias_rate > 0,
        "moe_router_bias_update_rate": sparse.bias_rate,
        "moe_token_dispatcher_type": MCORE_DISPATCHERS[parallel.dispatcher],
        "expert_model_parallel_size": parallel.expert,
        "expert_tensor_parallel_size": 1,
    }


def pipeline_layout(run: RunConfig) -> list[list[str]] | None:
    """Each stage's content in megatron-core's words, "embedding" being everything before the decoder; None = no cut."""
    if run.parallel.pipeline == 1:
        return None
    stages = [["decoder"] * layers for layers in stage_layers(run)]
    stages[0].insert(0, "embedding")
    stages[-1].append("loss")
    return stages
