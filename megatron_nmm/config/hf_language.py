"""What the folder of a language model fixes: the models whose decoder is this package's decoder, as a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from megatron_nmm.config.hf_config import Kind, Raw, Refusal, Setting
from megatron_nmm.config.schema import RunConfig


@dataclass(frozen=True)
class Family:
    """What config.json leaves unsaid about the models of one type."""

    qk_norm: bool
    head_dim: int | None
    """Width of a head where the file names none; None = width / heads."""
    biases: Mapping[str, bool]
    """Switches of biases, which the decoder has none of, with the value that an absent one stands for."""
    sparse: bool = False
    """Whether layers have sparse experts."""


FAMILIES: Mapping[str, Family] = {
    "qwen3": Family(qk_norm=True, head_dim=128, biases={"attention_bias": False}),
    "qwen3_moe": Family(qk_norm=True, head_dim=None, biases={"attention_bias": False}, sparse=True),
    "llama": Family(qk_norm=False, head_dim=None, biases={"attention_bias": False, "mlp_bias": False}),
    "internlm2": Family(qk_norm=False, head_dim=None, biases={"bias": True}),
}
"""By ``model_type``; absent values are those of the models' own configuration classes."""


def rope(raw: Raw) -> Raw:
    """RoPE's values under today's names (rope_theta, rope_type), from where files old and new keep them."""
    found = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    kind = found.get("rope_type", found.get("type", "default"))
    return {"rope_theta": raw.get("rope_theta", 10_000.0), **found, "rope_type": kind}


def _head_dim(raw: Raw, family: Family) -> Any:
    if raw.get("head_dim") is not None:
        return raw["head_dim"]
    return raw["hidden_size"] // raw["num_attention_heads"] if family.head_dim is None else family.head_dim


def _query_groups(raw: Raw) -> Any:
    return raw["num_attention_heads"] if raw.get("num_key_value_heads") is None else raw["num_key_value_heads"]


def _settings(family: Family) -> tuple[Setting, ...]:
    return (
        Setting("layers", lambda raw: raw["num_hidden_layers"]),
        Setting("width", lambda raw: raw["hidden_size"]),
        Setting("heads", lambda raw: raw["num_attention_heads"]),
        Setting("query_groups", _query_groups, lambda model: model.kv_heads),
        Setting("head_dim", partial(_head_dim, family=family), lambda model: model.head_width),
        Setting("ffn", lambda raw: raw["intermediate_size"], lambda model: model.ffn_width),
        Setting("rope_base", lambda raw: float(rope(raw)["rope_theta"])),
        Setting("norm_epsilon", lambda raw: float(raw.get("rms_norm_eps", 1e-6))),
        Setting("qk_norm", lambda raw: family.qk_norm),
        Setting("tie_embeddings", lambda raw: bool(raw.get("tie_word_embeddings", False))),
        # Rows beyond the folder's serve tokens that it does not know, such as those that lay out images.
        Setting("vocabulary", lambda raw: raw["vocab_size"], fits=lambda ours, theirs: bool(ours >= theirs)),
    )


def dense_layers(raw: Raw) -> tuple[int, ...]:
    """Layers that keep one MLP: those named, and all but each ``decoder_sparse_step``-th."""
    named, step = raw.get("mlp_only_layers") or (), raw.get("decoder_sparse_step", 1)
    return tuple(layer for layer in range(raw["num_hidden_layers"]) if layer in named or (layer + 1) % step)


SPARSE = (
    # transformers 5 writes the first name, earlier versions the second.
    Setting(
        "sparse.experts", lambda raw: raw["num_local_experts"] if "num_local_experts" in raw else raw["num_experts"]
    ),
    Setting("sparse.top_k", lambda raw: raw["num_experts_per_tok"]),
    Setting("sparse.ffn", lambda raw: raw["moe_intermediate_size"], lambda model: model.expert_width),
    Setting("sparse.dense_layers", dense_layers),
    Setting("sparse.normalise", lambda raw: bool(raw.get("norm_topk_prob", False))),
    Setting("sparse.score", lambda raw: "softmax"),
    Setting("sparse.bias_rate", lambda raw: 0.0),
)
"""Of sparse experts."""


def _scaled(raw: Raw, run: RunConfig) -> str | None:
    """Dynamic scaling changes nothing up to the length the model was made for; every other one always does."""
    kind, made_for = rope(raw)["rope_type"], raw.get("max_position_embeddings", 0)
    if kind == "default" or (kind == "dynamic" and run.data.sequence_length <= made_for):
        return None
    length = f" and {made_for} positions, data.sequence_length is {run.data.sequence_length}"
    return f"has RoPE scaling of type {kind!r}{length if kind == 'dynamic' else ''}, which is not supported"


def _slides(raw: Raw, run: RunConfig) -> str | None:
    window = raw.get("sliding_window")
    if not raw.get("use_sliding_window") or window is None or run.data.sequence_length <= window:
        return None
    return f"attends within {window} tokens, data.sequence_length is {run.data.sequence_length}"


def _biased(raw: Raw, run: RunConfig, family: Family) -> str | None:
    found = [key for key, absent in family.biases.items() if raw.get(key, absent)]
    return f"has biases ({', '.join(found)}), the decoder has none" if found else None


def _other_activation(raw: Raw, run: RunConfig) -> str | None:
    kind = raw.get("hidden_act", "silu")
    return None if kind == "silu" else f"has the activation {kind!r}, the decoder's is silu"


def quantised(raw: Raw, run: RunConfig) -> str | None:
    """Whether the weights are packed in a format of their own."""
    found = raw.get("quantization_config")
    return None if found is None else f"holds quantised weights ({found.get('quant_method')!r})"


UNQUANTISED = Refusal(quantised, "use the folder of the model before its quantisation")


def _refusals(family: Family) -> tuple[Refusal, ...]:
    return (
        UNQUANTISED,
        Refusal(_scaled, "use a model without it, or one whose scaling is dynamic with sequences of its own length"),
        Refusal(_slides, "use sequences of at most that length"),
        Refusal(partial(_biased, family=family), "use a model without biases"),
        Refusal(_other_activation, "use a model of SwiGLU MLPs"),
    )


LANGUAGE_MODELS: Mapping[str, Kind] = {
    name: Kind((*_settings(family), *(SPARSE if family.sparse else ())), _refusals(family))
    for name, family in FAMILIES.items()
}
"""The supported types."""
