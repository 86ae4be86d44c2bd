"""What the folder of a vision encoder fixes: NaViL's, the one public encoder that this package's represents exactly.

Others come close and differ in one thing each, which the table below names, so that nobody takes them for the same.
"""

from collections.abc import Mapping

from megatron_nmm.config.hf_config import Kind, Raw, Refusal, Setting
from megatron_nmm.config.hf_language import UNQUANTISED
from megatron_nmm.config.schema import RunConfig
from megatron_nmm.config.schema_model import ModelConfig

WHOLE, TOWER = "navil_chat", "navil_vit"
"""Model types: a whole NaViL model, whose encoder is one part, and an encoder alone."""


def tower(raw: Raw) -> Raw:
    """The encoder's own values."""
    part: Raw = raw["vision_config"] if raw["model_type"] == WHOLE else raw
    return part


def _window(raw: Raw) -> int:
    """Windows are cut only where the layers that see everything are listed."""
    part = tower(raw)
    return 0 if part.get("fullatt_block_indexes") is None else int(part.get("window_size", 8))


SETTINGS = (
    Setting("vision.depth", lambda raw: tower(raw)["num_hidden_layers"]),
    Setting("vision.width", lambda raw: tower(raw)["hidden_size"]),
    Setting("vision.heads", lambda raw: tower(raw)["num_attention_heads"]),
    Setting("vision.ffn", lambda raw: tower(raw)["intermediate_size"], lambda model: model.vision.ffn_width),
    Setting("vision.patch", lambda raw: tower(raw)["patch_size"]),
    Setting("vision.channels", lambda raw: tower(raw).get("num_channels", 3)),
    Setting("vision.norm_epsilon", lambda raw: float(tower(raw).get("layer_norm_eps", 1e-6))),
    Setting("vision.window", _window),
    Setting("vision.full_layers", lambda raw: tuple(tower(raw).get("fullatt_block_indexes") or ())),
    Setting("vision.rope_base", lambda raw: 10_000.0),
    Setting("vision.mlp", lambda raw: "gelu"),
    Setting("vision.bias", lambda raw: True),
    Setting("vision.qk_norm", lambda raw: False),
    Setting("vision.final_norm", lambda raw: False),
    Setting(
        "vision.layer_scale",
        lambda raw: float(tower(raw).get("initializer_factor", 0.1)),
        # Its first value is overwritten; what counts is that the model has the scale.
        fits=lambda ours, theirs: bool(ours > 0),
    ),
)


def takes_connector(raw: Raw, model: ModelConfig) -> bool:
    """Whether the folder's connector (and special embeddings) are for this model: 2 x 2 patches, the same decoder."""
    if raw["model_type"] != WHOLE:
        return False
    shuffle = model.vision.connector == "pixel_shuffle" and raw.get("downsample_ratio", 0.5) == 0.5
    return shuffle and takes_special_embeddings(raw, model)


def takes_special_embeddings(raw: Raw, model: ModelConfig) -> bool:
    """Whether rows of the folder's table of special embeddings are as wide as the decoder."""
    return bool(raw["model_type"] == WHOLE and raw.get("llm_config", {}).get("hidden_size") == model.width)


def _other_layers(raw: Raw, run: RunConfig) -> str | None:
    part = tower(raw)
    given = {
        "qkv_bias": (part.get("qkv_bias", False), False),
        # Where it is on, the released code applies a norm of the whole width to single heads, and cannot run.
        "qk_normalization": (part.get("qk_normalization", True), False),
        "hidden_act": (part.get("hidden_act", "gelu"), "gelu"),
        "norm_type": (part.get("norm_type", "rms_norm"), "rms_norm"),
    }
    found = [
        f"{key} {value!r} where {wanted!r} is supported" for key, (value, wanted) in given.items() if value != wanted
    ]
    return f"has an encoder with {', '.join(found)}" if found else None


def _early_fusion(raw: Raw, run: RunConfig) -> str | None:
    return None if run.model.vision.depth else "holds an encoder, this model has none (model.vision.depth 0)"


NAVIL = Kind(
    SETTINGS,
    (
        UNQUANTISED,
        Refusal(_other_layers, "use an encoder of NaViL's released form"),
        Refusal(_early_fusion, "give the model an encoder, or leave init.vision_model empty"),
    ),
)

VISION_MODELS: Mapping[str, Kind] = {WHOLE: NAVIL, TOWER: NAVIL}
"""The supported types."""

NEARLY: Mapping[str, str] = {
    "pixtral": "its RoPE turns columns with other frequencies than rows",
    "mistral3": "its encoder is Pixtral's, whose RoPE turns columns with other frequencies than rows",
    "qwen2_vl": "its queries, keys and values have biases, its norms are LayerNorms",
    "qwen2_5_vl": "its queries, keys and values have biases",
    "glm4v": "it adds a table of positions to the patches",
    "glm_ocr": "its queries, keys and values have biases",
    "dots3_note": "it norms the patches before the first layer",
    "llama4": "it has a class token, LayerNorms and biases",
    "intern_vit": "it has a class token, a table of positions and biases on queries, keys and values",
    "internvl": "it has a class token and a table of positions",
    "clip": "it has a class token, LayerNorms and a table of positions",
    "siglip": "it has LayerNorms and a table of positions",
    "aimv2": "it adds positions to the patches in place of RoPE",
}
"""Well-known encoders, by the beginning of their type, that this package's does not represent exactly, and why."""
