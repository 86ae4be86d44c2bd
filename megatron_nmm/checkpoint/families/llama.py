"""Llama, and Qwen3, which is Llama with norms on queries and keys."""

from megatron_nmm.checkpoint.rows import GroupedQKV, Padded, Row, Same, Stacked
from megatron_nmm.config import ModelConfig


def rows(model: ModelConfig, vocabulary: int) -> tuple[Row, ...]:
    """The decoder, embeddings and output layer of a folder with ``vocabulary`` tokens."""
    found: list[Row] = [
        Padded("embedding.word_embeddings.weight", "model.embed_tokens.weight", vocabulary),
        Same("decoder.final_layernorm.weight", "model.norm.weight"),
    ]
    if not model.tie_embeddings:
        found.append(Padded("output_layer.weight", "lm_head.weight", vocabulary))
    for layer in range(model.layers):
        found += _layer(model, f"decoder.layers.{layer}.", f"model.layers.{layer}.")
    return tuple(found)


def _layer(model: ModelConfig, ours: str, theirs: str) -> list[Row]:
    attention, theirs_attention = f"{ours}self_attention.", f"{theirs}self_attn."
    query_key_value = tuple(f"{theirs_attention}{part}_proj.weight" for part in "qkv")
    gate_up = (f"{theirs}mlp.gate_proj.weight", f"{theirs}mlp.up_proj.weight")
    found: list[Row] = [
        Same(f"{ours}input_layernorm.weight", f"{theirs}input_layernorm.weight"),
        GroupedQKV(f"{attention}linear_qkv.weight", query_key_value, model.kv_heads, model.head_width),
        Same(f"{attention}linear_proj.weight", f"{theirs_attention}o_proj.weight"),
        Same(f"{ours}pre_mlp_layernorm.weight", f"{theirs}post_attention_layernorm.weight"),
        Stacked(f"{ours}mlp.linear_fc1.weight", gate_up),
        Same(f"{ours}mlp.linear_fc2.weight", f"{theirs}mlp.down_proj.weight"),
    ]
    if model.qk_norm:
        found += [Same(f"{attention}{part}_layernorm.weight", f"{theirs_attention}{part}_norm.weight") for part in "qk"]
    return found
