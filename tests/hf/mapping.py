"""Configuration and weights of the training model as the exported model has them: a small table for the tests."""

from collections.abc import Iterator
from typing import Any

import torch

from megatron_nmm.checkpoint.rows import FusedQKV, GroupedQKV
from megatron_nmm.config import ModelConfig, RunConfig, VisionConfig
from megatron_nmm.data.load import run_rule
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.hf import (
    NativeMultimodalConfig,
    NativeMultimodalForConditionalGeneration,
    NativeMultimodalImageProcessor,
    NativeMultimodalProcessor,
)

State = dict[str, torch.Tensor]
Named = Iterator[tuple[str, torch.Tensor]]


def config_of(run: RunConfig, tokenizer: Tokenizer) -> NativeMultimodalConfig:
    """config.json of a run's model."""
    model, sparse = run.model, run.model.sparse
    layout = ("image", "begin_of_image", "end_of_image", "end_of_line", "end_of_scale", "pad", "bos", "eos")
    return NativeMultimodalConfig(
        vocab_size=model.vocabulary,
        hidden_size=model.width,
        intermediate_size=model.ffn_width,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        head_dim=model.head_width,
        qk_norm=model.qk_norm,
        rms_norm_eps=model.norm_epsilon,
        rope_theta=model.rope_base,
        image_mask=model.image_mask,
        modality_experts=model.modality_experts,
        special_embeddings=model.special_embeddings,
        num_experts=sparse.experts,
        num_experts_per_tok=sparse.top_k,
        moe_intermediate_size=model.expert_width,
        norm_topk_prob=sparse.normalise,
        score_function=sparse.score,
        router_bias=sparse.bias_rate > 0,
        sparse_layers=model.sparse_layers,
        patch_size=model.vision.patch,
        vision_config=_vision(model.vision) if model.vision.depth else None,
        tie_word_embeddings=model.tie_embeddings,
        **{f"{name}_token_id": tokenizer.special[name] for name in layout},
    )


def _vision(vision: VisionConfig) -> dict[str, Any]:
    return {
        "depth": vision.depth,
        "hidden_size": vision.width,
        "intermediate_size": vision.ffn_width,
        "num_attention_heads": vision.heads,
        "mlp": vision.mlp,
        "bias": vision.bias,
        "qkv_bias": vision.qkv_bias,
        "norm": vision.norm,
        "positions": vision.positions,
        "table_side": vision.table_side,
        "class_token": vision.class_token,
        "qk_norm": vision.qk_norm,
        "layer_scale": vision.layer_scale,
        "final_norm": vision.final_norm,
        "rms_norm_eps": vision.norm_epsilon,
        "rope_theta": vision.rope_base,
        "window_size": vision.window,
        "full_attention_layers": vision.full_layers,
        "connector": vision.connector,
    }


def images_of(run: RunConfig) -> dict[str, Any]:
    """The arguments of a run's image processor."""
    rule, data = run_rule(run), run.data
    return {
        "image_rule": rule.name,
        "patch_size": rule.patch,
        "merge_size": rule.shuffle,
        "image_size": data.image_size,
        "min_patches": data.min_patches,
        "max_patches": data.max_patches,
        "multi_scale": data.multi_scale,
        "do_center_crop": data.augment,
    }


def processor_of(run: RunConfig, tokenizer: Tokenizer) -> NativeMultimodalProcessor:
    """The processor of a run whose tokenizer is a tokenizer.json."""
    from transformers import PreTrainedTokenizerFast

    images = NativeMultimodalImageProcessor(**images_of(run))
    words = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer.path))
    return NativeMultimodalProcessor(images, words, special_token_ids=tokenizer.special)


def model_of(run: RunConfig, tokenizer: Tokenizer, state: State) -> NativeMultimodalForConditionalGeneration:
    """The exported model with the training model's weights; every tensor of either side is used."""
    model = NativeMultimodalForConditionalGeneration(config_of(run, tokenizer))
    left, found = dict(state), dict(_weights(run.model, state))
    missing, unexpected = model.load_state_dict(found, strict=False)
    assert not unexpected, unexpected
    assert missing == (["lm_head.weight"] if run.model.tie_embeddings else []), missing
    assert sum(tensor.numel() for tensor in left.values()) == sum(tensor.numel() for tensor in found.values())
    return model.eval()


def _weights(model: ModelConfig, state: State) -> Named:
    yield "model.embed_tokens.weight", state["embedding.word_embeddings.weight"]
    yield "model.norm.weight", state["decoder.final_layernorm.weight"]
    if not model.tie_embeddings:
        yield "lm_head.weight", state["output_layer.weight"]
    if model.special_embeddings:
        yield "model.special_embedding.weight", state["special_embedding.weight"]
    for part in ("weight", "bias"):
        if model.vision.depth:
            yield f"model.vision.patch_embed.{part}", state[f"vision_encoder.patch_stem.linear.{part}"]
        else:
            yield f"model.patch_stem.{part}", state[f"patch_stem.linear.{part}"]
    for name, tensor in state.items():
        if name.startswith("vision_encoder.connector."):
            yield name.replace("vision_encoder.", "model."), tensor
    for name, tensor in _below(state, "vision_encoder.block.final_layernorm.").items():
        yield f"model.vision.norm.{name}", tensor
    for ours, theirs in (("table", "position_table"), ("class_token", "class_token")):
        if f"vision_encoder.positions.{ours}" in state:
            yield f"model.vision.{theirs}", state[f"vision_encoder.positions.{ours}"]
    for layer in range(model.vision.depth):
        of_layer = _below(state, f"vision_encoder.block.layers.{layer}.")
        yield from _vision_layer(model.vision, of_layer, f"model.vision.layers.{layer}.")
    for layer in range(model.layers):
        yield from _layer(model, _below(state, f"decoder.layers.{layer}."), f"model.layers.{layer}.")


def _below(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _layer(model: ModelConfig, layer: State, to: str) -> Named:
    yield f"{to}input_layernorm.weight", layer["input_layernorm.weight"]
    yield f"{to}post_attention_layernorm.weight", layer["pre_mlp_layernorm.weight"]
    for visual, end in (("", ""), ("visual.", "_ve")):
        if f"self_attention.{visual}linear_qkv.weight" in layer:
            attention = _below(layer, f"self_attention.{visual}")
            cut = GroupedQKV("", ("", "", ""), model.kv_heads, model.head_width).cut(attention["linear_qkv.weight"])
            for part, tensor in zip("qkv", cut, strict=True):
                yield f"{to}self_attn.{part}_proj{end}.weight", tensor
            yield f"{to}self_attn.o_proj{end}.weight", attention["linear_proj.weight"]
            for part in "qk" if model.qk_norm else "":
                yield f"{to}self_attn.{part}_norm{end}.weight", attention[f"{part}_layernorm.weight"]
        if f"mlp.{visual}linear_fc1.weight" in layer:
            yield from _swiglu(_below(layer, f"mlp.{visual}"), f"{to}mlp{end}.")
    if "mlp.router.weight" in layer:
        yield f"{to}mlp.gate.weight", layer["mlp.router.weight"]
        if "mlp.router.expert_bias" in layer:
            yield f"{to}mlp.gate.e_score_correction_bias", layer["mlp.router.expert_bias"]
        experts = _below(layer, "mlp.experts.experts.")
        for number in range(model.sparse.experts):
            yield from _swiglu({name: t[number] for name, t in experts.items()}, f"{to}mlp.experts.{number}.")


def _swiglu(mlp: State, to: str) -> Named:
    for part in ("weight", "bias"):
        if f"linear_fc1.{part}" in mlp:
            gate, up = mlp[f"linear_fc1.{part}"].chunk(2)
            yield from ((f"{to}gate_proj.{part}", gate), (f"{to}up_proj.{part}", up))
            yield f"{to}down_proj.{part}", mlp[f"linear_fc2.{part}"]


def _vision_layer(vision: VisionConfig, layer: State, to: str) -> Named:
    names = {
        "input_layernorm.weight": "norm1.weight",
        "input_layernorm.bias": "norm1.bias",
        "pre_mlp_layernorm.weight": "norm2.weight",
        "pre_mlp_layernorm.bias": "norm2.bias",
        "self_attention.linear_proj.weight": "attn.proj.weight",
        "self_attention.linear_proj.bias": "attn.proj.bias",
        "self_attention.q_layernorm.weight": "attn.q_norm.weight",
        "self_attention.k_layernorm.weight": "attn.k_norm.weight",
        "self_attn_bda.weight": "ls1",
        "mlp_bda.weight": "ls2",
    }
    yield from ((to + theirs, layer[ours]) for ours, theirs in names.items() if ours in layer)
    for part, fused in _below(layer, "self_attention.linear_qkv.").items():
        yield f"{to}attn.qkv.{part}", *FusedQKV("", "", vision.heads).cut(fused)
    if vision.mlp == "swiglu":
        yield from _swiglu(_below(layer, "mlp."), f"{to}mlp.")
    else:
        fc = _below(layer, "mlp.linear_")
        yield from ((f"{to}mlp.{name}", tensor) for name, tensor in fc.items())
