"""InternLM2: Llama under other names, whose one query-key-value matrix already holds each group's rows together."""

from megatron_nmm.checkpoint.rows import Chained, Padded, Row, Same, Stacked
from megatron_nmm.config import ModelConfig

VISUAL = "_ve"


def rows(model: ModelConfig, vocabulary: int) -> tuple[Row, ...]:
    """A decoder of text, embeddings and output layer, of a folder with ``vocabulary`` tokens."""
    return decoder(model, vocabulary)


def decoder(model: ModelConfig, vocabulary: int, theirs: str = "", *, visual: bool = False) -> tuple[Row, ...]:
    """With ``visual``, image tokens' weights as well, as NaViL has them. Names of theirs begin with ``theirs``."""
    found: list[Row] = [
        Padded("embedding.word_embeddings.weight", f"{theirs}model.tok_embeddings.weight", vocabulary),
        Same("decoder.final_layernorm.weight", f"{theirs}model.norm.weight"),
    ]
    if not model.tie_embeddings:
        found.append(Padded("output_layer.weight", f"{theirs}output.weight", vocabulary))
    for layer in range(model.layers):
        place = (f"decoder.layers.{layer}.", f"{theirs}model.layers.{layer}.")
        found += _layer(*place)
        found += _visual(*place) if visual else []
    return tuple(found)


def _layer(ours: str, theirs: str) -> list[Row]:
    return [
        Same(f"{ours}input_layernorm.weight", f"{theirs}attention_norm.weight"),
        Same(f"{ours}self_attention.linear_qkv.weight", f"{theirs}attention.wqkv.weight"),
        Same(f"{ours}self_attention.linear_proj.weight", f"{theirs}attention.wo.weight"),
        Same(f"{ours}pre_mlp_layernorm.weight", f"{theirs}ffn_norm.weight"),
        *_mlp(f"{ours}mlp.", f"{theirs}feed_forward"),
    ]


def _visual(ours: str, theirs: str) -> list[Row]:
    text, attention = f"{ours}self_attention.", f"{theirs}attention."
    return [
        Same(f"{text}visual.linear_qkv.weight", f"{attention}wqkv{VISUAL}.weight"),
        Chained(
            f"{text}visual.linear_proj.weight",
            f"{text}linear_proj.weight",
            f"{attention}wo.weight",
            f"{attention}wo{VISUAL}.weight",
        ),
        *_mlp(f"{ours}mlp.visual.", f"{theirs}feed_forward{VISUAL}"),
    ]


def _mlp(ours: str, theirs: str) -> list[Row]:
    return [
        Stacked(f"{ours}linear_fc1.weight", (f"{theirs}.w1.weight", f"{theirs}.w3.weight")),
        Same(f"{ours}linear_fc2.weight", f"{theirs}.w2.weight"),
    ]
