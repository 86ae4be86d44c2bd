"""The config.json of this package's own models: one table, from a run's settings and back to them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from megatron_nmm.config import RunConfig

MODEL_TYPE = "native_multimodal"
ARCHITECTURE = "NativeMultimodalForConditionalGeneration"
VISION_TYPE = "native_multimodal_vision"
Raw = Mapping[str, Any]


@dataclass(frozen=True)
class Field:
    """One value of config.json and the setting it stands for."""

    theirs: str
    ours: str
    """Below ``model`` or ``data``, e.g. ``model.sparse.top_k``."""
    value: Callable[[RunConfig], Any] | None = None
    """What is written; None = the setting as it is."""
    back: Callable[[Raw], Any] | None = None
    """What the setting becomes; None = the value as it is."""


def at(run: RunConfig, key: str) -> Any:
    """The value of ``run`` at a dotted ``key``."""
    value: Any = run
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _other_layers(raw: Raw) -> tuple[int, ...]:
    sparse = raw["sparse_layers"] if raw["num_experts"] else range(raw["num_hidden_layers"])
    return tuple(layer for layer in range(raw["num_hidden_layers"]) if layer not in sparse)


FIELDS = (
    Field("hidden_size", "model.width"),
    Field("intermediate_size", "model.ffn", lambda run: run.model.ffn_width),
    Field("num_hidden_layers", "model.layers"),
    Field("num_attention_heads", "model.heads"),
    Field("num_key_value_heads", "model.query_groups", lambda run: run.model.kv_heads),
    Field("head_dim", "model.head_dim", lambda run: run.model.head_width),
    Field("rms_norm_eps", "model.norm_epsilon"),
    Field("rope_theta", "model.rope_base"),
    Field("vocab_size", "model.vocabulary"),
    Field("tie_word_embeddings", "model.tie_embeddings"),
    Field("initializer_range", "model.init_std"),
    Field("qk_norm", "model.qk_norm"),
    Field("modality_experts", "model.modality_experts"),
    Field("image_mask", "model.image_mask"),
    Field("special_embeddings", "model.special_embeddings"),
    Field(
        "num_experts", "model.sparse.experts", lambda run: run.model.sparse.experts if run.model.sparse_layers else 0
    ),
    Field("num_experts_per_tok", "model.sparse.top_k"),
    Field("moe_intermediate_size", "model.sparse.ffn", lambda run: run.model.expert_width),
    Field("norm_topk_prob", "model.sparse.normalise"),
    Field("score_function", "model.sparse.score"),
    Field("sparse_layers", "model.sparse.dense_layers", lambda run: run.model.sparse_layers, _other_layers),
    # The bias is part of the model; how fast it moved is not, but a run that goes on has to know it.
    Field("router_bias_rate", "model.sparse.bias_rate"),
    Field("patch_size", "model.vision.patch"),
    Field("num_channels", "model.vision.channels"),
    Field("image_rule", "data.image_rule"),
    Field("image_size", "data.image_size"),
    Field("min_patches", "data.min_patches"),
    Field("max_patches", "data.max_patches"),
    Field("multi_scale", "data.multi_scale"),
)
"""What every model has."""


def _later(theirs: str, ours: str) -> Field:
    """A field that the first exports did not have: where it is not there, the setting is the default."""
    return Field(theirs, ours, back=lambda raw: raw[theirs] if theirs in raw else at(RunConfig(), ours))


VISION_FIELDS = (
    Field("depth", "model.vision.depth"),
    Field("hidden_size", "model.vision.width"),
    Field("intermediate_size", "model.vision.ffn", lambda run: run.model.vision.ffn_width),
    Field("num_attention_heads", "model.vision.heads"),
    Field("mlp", "model.vision.mlp"),
    Field("bias", "model.vision.bias"),
    _later("qkv_bias", "model.vision.qkv_bias"),
    _later("norm", "model.vision.norm"),
    Field("qk_norm", "model.vision.qk_norm"),
    Field("layer_scale", "model.vision.layer_scale"),
    Field("final_norm", "model.vision.final_norm"),
    Field("rms_norm_eps", "model.vision.norm_epsilon"),
    Field("rope_theta", "model.vision.rope_base"),
    _later("positions", "model.vision.positions"),
    _later("table_side", "model.vision.table_side"),
    _later("class_token", "model.vision.class_token"),
    Field("window_size", "model.vision.window"),
    Field("full_attention_layers", "model.vision.full_layers"),
    Field("connector", "model.vision.connector"),
)
"""``vision_config``; in early fusion there is none."""


def config_json(run: RunConfig) -> dict[str, Any]:
    """The fields that follow from ``run``; those of its tokenizer come from elsewhere."""
    vision = {"model_type": VISION_TYPE, **_written(VISION_FIELDS, run)} if run.model.vision.depth else None
    bias = bool(run.model.sparse_layers) and run.model.sparse.bias_rate > 0
    return {
        "model_type": MODEL_TYPE,
        "architectures": [ARCHITECTURE],
        **_written(FIELDS, run),
        "router_bias": bias,
        "vision_config": vision,
    }


def settings(raw: Raw) -> dict[str, Any]:
    """Setting -> value, from a config.json. KeyError names a field that it lacks."""
    found = _read(FIELDS, raw)
    if raw["vision_config"] is None:
        return found | {"model.vision.depth": 0}
    return found | _read(VISION_FIELDS, raw["vision_config"])


def _written(fields: tuple[Field, ...], run: RunConfig) -> dict[str, Any]:
    return {field.theirs: at(run, field.ours) if field.value is None else field.value(run) for field in fields}


def _read(fields: tuple[Field, ...], raw: Raw) -> dict[str, Any]:
    return {field.ours: raw[field.theirs] if field.back is None else field.back(raw) for field in fields}
