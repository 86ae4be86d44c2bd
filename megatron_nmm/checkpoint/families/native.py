"""This package's own models in Hugging Face form: the decoder as Qwen3 names it, before it an encoder or a stem."""

from megatron_nmm.checkpoint.families import llama
from megatron_nmm.checkpoint.families.navil_vision import affine, fused_qkv, norm
from megatron_nmm.checkpoint.rows import Row, Same, Stacked
from megatron_nmm.config import ModelConfig, VisionConfig

CONNECTORS = {"linear": ("linear",), "mlp": ("fc1", "fc2"), "pixel_shuffle": ("norm", "fc1", "fc2")}
"""Modules of each connector (models/vision/connector.py)."""


def rows(model: ModelConfig, vocabulary: int) -> tuple[Row, ...]:
    """Every tensor of ``model``; ``vocabulary`` is its own, padding included."""
    found = [*llama.decoder(model, vocabulary, visual=True, sparse=True)]
    if model.vision.depth:
        found += _encoder(model.vision, "vision_encoder.", "model.vision.")
        for part in CONNECTORS[model.vision.connector]:
            found += affine(f"vision_encoder.connector.{part}", f"model.connector.{part}")
    else:
        found += affine("patch_stem.linear", "model.patch_stem")
    if model.special_embeddings:
        found.append(Same("special_embedding.weight", "model.special_embedding.weight"))
    return tuple(found)


def _encoder(vision: VisionConfig, ours: str, theirs: str) -> list[Row]:
    found = affine(f"{ours}patch_stem.linear", f"{theirs}patch_embed")
    if vision.positions == "table":
        found.append(Same(f"{ours}positions.table", f"{theirs}position_table"))
    if vision.class_token:
        found.append(Same(f"{ours}positions.class_token", f"{theirs}class_token"))
    for layer in range(vision.depth):
        found += _layer(vision, f"{ours}block.layers.{layer}.", f"{theirs}layers.{layer}.")
    if vision.final_norm:
        found += norm(vision, f"{ours}block.final_layernorm", f"{theirs}norm")
    return found


def _layer(vision: VisionConfig, ours: str, theirs: str) -> list[Row]:
    attention, mlp = f"{ours}self_attention.", f"{ours}mlp."
    found: list[Row] = [
        *norm(vision, f"{ours}input_layernorm", f"{theirs}norm1"),
        *fused_qkv(vision, f"{attention}linear_qkv", f"{theirs}attn.qkv"),
        *norm(vision, f"{ours}pre_mlp_layernorm", f"{theirs}norm2"),
    ]
    if vision.qk_norm:
        found += [Same(f"{attention}{part}_layernorm.weight", f"{theirs}attn.{part}_norm.weight") for part in "qk"]
    if vision.layer_scale:
        found += [Same(f"{ours}{ours_scale}.weight", f"{theirs}{scale}") for ours_scale, scale in SCALES]
    for leaf in ("weight", "bias") if vision.bias else ("weight",):
        found.append(Same(f"{attention}linear_proj.{leaf}", f"{theirs}attn.proj.{leaf}"))
        if vision.mlp == "swiglu":
            gate_up = (f"{theirs}mlp.gate_proj.{leaf}", f"{theirs}mlp.up_proj.{leaf}")
            found.append(Stacked(f"{mlp}linear_fc1.{leaf}", gate_up))
            found.append(Same(f"{mlp}linear_fc2.{leaf}", f"{theirs}mlp.down_proj.{leaf}"))
        else:
            found += [Same(f"{mlp}linear_{part}.{leaf}", f"{theirs}mlp.{part}.{leaf}") for part in ("fc1", "fc2")]
    return found


SCALES = (("self_attn_bda", "ls1"), ("mlp_bda", "ls2"))
"""LayerScale: the module that joins a branch, and their name of its factors."""
