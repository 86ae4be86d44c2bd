"""InternLM2: Llama under other names, whose one query-key-value matrix already holds each group's rows together."""

from megatron_nmm.checkpoint.rows import Padded, Row, Same, Stacked
from megatron_nmm.config import ModelConfig


def rows(model: ModelConfig, vocabulary: int) -> tuple[Row, ...]:
    """The decoder, embeddings and output layer of a folder with ``vocabulary`` tokens."""
    found: list[Row] = [
        Padded("embedding.word_embeddings.weight", "model.tok_embeddings.weight", vocabulary),
        Same("decoder.final_layernorm.weight", "model.norm.weight"),
    ]
    if not model.tie_embeddings:
        found.append(Padded("output_layer.weight", "output.weight", vocabulary))
    for layer in range(model.layers):
        found += _layer(f"decoder.layers.{layer}.", f"model.layers.{layer}.")
    return tuple(found)


def _layer(ours: str, theirs: str) -> list[Row]:
    return [
        Same(f"{ours}input_layernorm.weight", f"{theirs}attention_norm.weight"),
        Same(f"{ours}self_attention.linear_qkv.weight", f"{theirs}attention.wqkv.weight"),
        Same(f"{ours}self_attention.linear_proj.weight", f"{theirs}attention.wo.weight"),
        Same(f"{ours}pre_mlp_layernorm.weight", f"{theirs}ffn_norm.weight"),
        Stacked(f"{ours}mlp.linear_fc1.weight", (f"{theirs}feed_forward.w1.weight", f"{theirs}feed_forward.w3.weight")),
        Same(f"{ours}mlp.linear_fc2.weight", f"{theirs}feed_forward.w2.weight"),
    ]
