"""NaViL's vision encoder, its connector and its special embeddings, as its released code names them.

InternViT, from which that encoder comes, has the same names and some tensors more; InternVL has NaViL's connector.
"""

from collections.abc import Mapping
from typing import Any

from megatron_nmm.checkpoint.rows import Batched, Filter, FusedQKV, Row, Same
from megatron_nmm.config import ModelConfig, VisionConfig
from megatron_nmm.config.hf_vision import WHOLES, takes_connector, takes_special_embeddings

OURS = "vision_encoder."
CONNECTOR = {"norm": "mlp1.0", "fc1": "mlp1.1", "fc2": "mlp1.3"}


def rows(model: ModelConfig, raw: Mapping[str, Any]) -> tuple[Row, ...]:
    """What a folder with the config.json ``raw`` gives a model of this shape: the encoder, and what else fits it."""
    theirs = "vision_model." if raw["model_type"] in WHOLES else ""
    found = encoder(model.vision, theirs)
    if takes_connector(raw, model):
        for ours, source in CONNECTOR.items():
            found += affine(f"{OURS}connector.{ours}", source)
    if model.special_embeddings and takes_special_embeddings(raw, model):
        found.append(Same("special_embedding.weight", "special_token_embedding.weight"))
    return tuple(found)


def encoder(vision: VisionConfig, theirs: str) -> list[Row]:
    """The transformer and its patch stem; names of theirs begin with ``theirs``."""
    stem, patches = f"{OURS}patch_stem.linear", f"{theirs}embeddings.patch_embedding"
    found: list[Row] = [
        Filter(f"{stem}.weight", f"{patches}.weight", vision.channels, vision.patch),
        Same(f"{stem}.bias", f"{patches}.bias"),
    ]
    if vision.positions == "table":
        found.append(Batched(f"{OURS}positions.table", f"{theirs}embeddings.position_embedding", 1))
    if vision.class_token:
        found.append(Batched(f"{OURS}positions.class_token", f"{theirs}embeddings.class_embedding", 2))
    for layer in range(vision.depth):
        found += _layer(vision, f"{OURS}block.layers.{layer}.", f"{theirs}encoder.layers.{layer}.")
    return found


def _layer(vision: VisionConfig, ours: str, theirs: str) -> list[Row]:
    return [
        *norm(vision, f"{ours}input_layernorm", f"{theirs}norm1"),
        *fused_qkv(vision, f"{ours}self_attention.linear_qkv", f"{theirs}attn.qkv"),
        *affine(f"{ours}self_attention.linear_proj", f"{theirs}attn.proj"),
        Same(f"{ours}self_attn_bda.weight", f"{theirs}ls1"),
        *norm(vision, f"{ours}pre_mlp_layernorm", f"{theirs}norm2"),
        *affine(f"{ours}mlp.linear_fc1", f"{theirs}mlp.fc1"),
        *affine(f"{ours}mlp.linear_fc2", f"{theirs}mlp.fc2"),
        Same(f"{ours}mlp_bda.weight", f"{theirs}ls2"),
    ]


def norm(vision: VisionConfig, ours: str, theirs: str) -> list[Row]:
    """A norm of the residual stream; LayerNorm has a bias."""
    parts = ("weight", "bias") if vision.norm == "layer" else ("weight",)
    return [Same(f"{ours}.{part}", f"{theirs}.{part}") for part in parts]


def fused_qkv(vision: VisionConfig, ours: str, theirs: str) -> list[Row]:
    """Queries, keys and values in one matrix, with a bias or without."""
    parts = ("weight", "bias") if vision.qkv_bias else ("weight",)
    return [FusedQKV(f"{ours}.{part}", f"{theirs}.{part}", vision.heads) for part in parts]


def affine(ours: str, theirs: str) -> list[Row]:
    """Weight and bias of one layer."""
    return [Same(f"{ours}.{part}", f"{theirs}.{part}") for part in ("weight", "bias")]
