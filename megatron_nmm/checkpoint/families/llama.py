"""Llama, Qwen3, which is Llama with norms on queries and keys, and what grew from them.

NaViL's visual experts stand beside the text's with the suffix ``_ve``, Qwen3-MoE's sparse ones in place of the MLP.
"""

from megatron_nmm.checkpoint.rows import GroupedQKV, Padded, PerExpert, Row, Same, Stacked
from megatron_nmm.config import ModelConfig

VISUAL = "_ve"
"""Suffix of the image tokens' modules."""
MLP = ("gate_proj", "up_proj", "down_proj")


def rows(model: ModelConfig, vocabulary: int) -> tuple[Row, ...]:
    """A dense decoder of text, embeddings and output layer, of a folder with ``vocabulary`` tokens."""
    return decoder(model, vocabulary)


def sparse_rows(model: ModelConfig, vocabulary: int) -> tuple[Row, ...]:
    """The same with the sparse experts that ``model`` has (Qwen3-MoE)."""
    return decoder(model, vocabulary, sparse=True)


def decoder(
    model: ModelConfig, vocabulary: int, theirs: str = "", *, visual: bool = False, sparse: bool = False
) -> tuple[Row, ...]:
    """With ``visual``, the modality experts of ``model`` as well; with ``sparse``, its sparse experts in place of MLPs.
    Names of theirs begin with ``theirs``."""
    found: list[Row] = [
        Padded("embedding.word_embeddings.weight", f"{theirs}model.embed_tokens.weight", vocabulary),
        Same("decoder.final_layernorm.weight", f"{theirs}model.norm.weight"),
    ]
    if not model.tie_embeddings:
        found.append(Padded("output_layer.weight", f"{theirs}lm_head.weight", vocabulary))
    for layer in range(model.layers):
        place = (f"decoder.layers.{layer}.", f"{theirs}model.layers.{layer}.")
        found += _layer(model, *place, sparse=sparse and layer in model.sparse_layers)
        found += _visual(model, *place) if visual else []
    return tuple(found)


def _layer(model: ModelConfig, ours: str, theirs: str, *, sparse: bool) -> list[Row]:
    return [
        Same(f"{ours}input_layernorm.weight", f"{theirs}input_layernorm.weight"),
        *_attention(model, f"{ours}self_attention.", f"{theirs}self_attn."),
        Same(f"{ours}pre_mlp_layernorm.weight", f"{theirs}post_attention_layernorm.weight"),
        *(_sparse if sparse else _mlp)(model, f"{ours}mlp.", f"{theirs}mlp"),
    ]


def _visual(model: ModelConfig, ours: str, theirs: str) -> list[Row]:
    found: list[Row] = []
    if model.modality_experts == "all":
        found += _attention(model, f"{ours}self_attention.visual.", f"{theirs}self_attn.", VISUAL)
    if model.modality_experts != "none":
        found += _mlp(model, f"{ours}mlp.visual.", f"{theirs}mlp{VISUAL}")
    return found


def _attention(model: ModelConfig, ours: str, theirs: str, suffix: str = "") -> list[Row]:
    query_key_value = tuple(f"{theirs}{part}_proj{suffix}.weight" for part in "qkv")
    found: list[Row] = [
        GroupedQKV(f"{ours}linear_qkv.weight", query_key_value, model.kv_heads, model.head_width),
        Same(f"{ours}linear_proj.weight", f"{theirs}o_proj{suffix}.weight"),
    ]
    if model.qk_norm:
        found += [Same(f"{ours}{part}_layernorm.weight", f"{theirs}{part}_norm{suffix}.weight") for part in "qk"]
    return found


def _mlp(model: ModelConfig, ours: str, theirs: str) -> list[Row]:
    gate, up, down = (f"{theirs}.{part}.weight" for part in MLP)
    return [Stacked(f"{ours}linear_fc1.weight", (gate, up)), Same(f"{ours}linear_fc2.weight", down)]


def _sparse(model: ModelConfig, ours: str, theirs: str) -> list[Row]:
    experts = range(model.sparse.experts)
    gate, up, down = (tuple(f"{theirs}.experts.{expert}.{part}.weight" for expert in experts) for part in MLP)
    gate_up = tuple(name for pair in zip(gate, up, strict=True) for name in pair)
    found: list[Row] = [
        Same(f"{ours}router.weight", f"{theirs}.gate.weight"),
        PerExpert(f"{ours}experts.experts.linear_fc1.weight", gate_up, len(experts)),
        PerExpert(f"{ours}experts.experts.linear_fc2.weight", down, len(experts)),
    ]
    if model.sparse.bias_rate:
        found.append(Same(f"{ours}router.expert_bias", f"{theirs}.gate.e_score_correction_bias"))
    return found
