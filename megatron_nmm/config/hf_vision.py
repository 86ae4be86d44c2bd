"""What the folder of a vision encoder fixes: those of NaViL and InternViT, which this package's represents exactly.

Others come close and differ in one thing each, which the table below names, so that nobody takes them for the same.
"""

from collections.abc import Mapping

from megatron_nmm.config.hf_config import Kind, Raw, Refusal, Setting
from megatron_nmm.config.hf_language import UNQUANTISED
from megatron_nmm.config.schema import RunConfig
from megatron_nmm.config.schema_model import ModelConfig

NAVIL_WHOLE, NAVIL_TOWER = "navil_chat", "navil_vit"
INTERN_WHOLE, INTERN_TOWER = "internvl_chat", "intern_vit_6b"
"""Model types of a whole model, whose encoder is one part, and of an encoder alone. InternViT's of 0.3 B is called so,
too."""
WHOLES = (NAVIL_WHOLE, INTERN_WHOLE)


def tower(raw: Raw) -> Raw:
    """The encoder's own values."""
    part: Raw = raw["vision_config"] if raw["model_type"] in WHOLES else raw
    return part


def _window(raw: Raw) -> int:
    """Windows are cut only where the layers that see everything are listed."""
    part = tower(raw)
    return 0 if part.get("fullatt_block_indexes") is None else int(part.get("window_size", 8))


SHAPE = (
    Setting("vision.depth", lambda raw: tower(raw)["num_hidden_layers"]),
    Setting("vision.width", lambda raw: tower(raw)["hidden_size"]),
    Setting("vision.heads", lambda raw: tower(raw)["num_attention_heads"]),
    Setting("vision.ffn", lambda raw: tower(raw)["intermediate_size"], lambda model: model.vision.ffn_width),
    Setting("vision.patch", lambda raw: tower(raw)["patch_size"]),
    Setting("vision.channels", lambda raw: tower(raw).get("num_channels", 3)),
    Setting("vision.norm_epsilon", lambda raw: float(tower(raw).get("layer_norm_eps", 1e-6))),
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
"""Of both."""

NAVIL_SETTINGS = (
    *SHAPE,
    Setting("vision.window", _window),
    Setting("vision.full_layers", lambda raw: tuple(tower(raw).get("fullatt_block_indexes") or ())),
    Setting("vision.rope_base", lambda raw: 10_000.0),
    Setting("vision.qkv_bias", lambda raw: False),
    Setting("vision.norm", lambda raw: "rms"),
    Setting("vision.positions", lambda raw: "rotary"),
)

NORMS = {"rms_norm": "rms", "layer_norm": "layer"}
"""InternViT's words."""

INTERN_SETTINGS = (
    *SHAPE,
    Setting("vision.window", lambda raw: 0),
    Setting("vision.qkv_bias", lambda raw: bool(tower(raw).get("qkv_bias", False))),
    Setting("vision.norm", lambda raw: NORMS[tower(raw).get("norm_type", "rms_norm")]),
    Setting("vision.positions", lambda raw: "table"),
    Setting("vision.table_side", lambda raw: tower(raw)["image_size"] // tower(raw)["patch_size"]),
    Setting("vision.class_token", lambda raw: True),
)


def takes_connector(raw: Raw, model: ModelConfig) -> bool:
    """Whether the folder's connector is for this model: 2 x 2 patches in the order of the image, the same decoder."""
    shuffle = model.vision.connector == "pixel_shuffle" and raw.get("downsample_ratio", 0.5) == 0.5
    # InternVL's first version hands its tokens to the decoder column by column.
    upright = raw["model_type"] != INTERN_WHOLE or raw.get("ps_version", "v1") == "v2"
    return shuffle and upright and _same_decoder(raw, model)


def takes_special_embeddings(raw: Raw, model: ModelConfig) -> bool:
    """Whether rows of the folder's table of special embeddings are as wide as the decoder."""
    return raw["model_type"] == NAVIL_WHOLE and _same_decoder(raw, model)


def _same_decoder(raw: Raw, model: ModelConfig) -> bool:
    return bool(raw["model_type"] in WHOLES and raw.get("llm_config", {}).get("hidden_size") == model.width)


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


def _other_intern_layers(raw: Raw, run: RunConfig) -> str | None:
    part = tower(raw)
    if part.get("qk_normalization", True):
        return "has an encoder that norms queries and keys of all heads together, as InternViT-6B does"
    if (act := part.get("hidden_act", "gelu")) != "gelu":
        return f"has an encoder with hidden_act {act!r} where 'gelu' is supported"
    return None


def _other_output(raw: Raw, run: RunConfig) -> str | None:
    layer = raw.get("select_layer", -1)
    return None if layer == -1 else f"reads layer {layer} of its encoder (select_layer), this package's the last one"


def _early_fusion(raw: Raw, run: RunConfig) -> str | None:
    return None if run.model.vision.depth else "holds an encoder, this model has none (model.vision.depth 0)"


_HAS_NO_PLACE = Refusal(_early_fusion, "give the model an encoder, or leave init.vision_model empty")

NAVIL = Kind(
    NAVIL_SETTINGS,
    (UNQUANTISED, Refusal(_other_layers, "use an encoder of NaViL's released form"), _HAS_NO_PLACE),
)

INTERN = Kind(
    INTERN_SETTINGS,
    (
        UNQUANTISED,
        Refusal(_other_intern_layers, "use InternViT-300M, or an InternVL folder that holds it"),
        Refusal(_other_output, "use an InternVL folder with select_layer -1, or the encoder's own"),
        _HAS_NO_PLACE,
    ),
)

VISION_MODELS: Mapping[str, Kind] = {
    NAVIL_WHOLE: NAVIL,
    NAVIL_TOWER: NAVIL,
    INTERN_WHOLE: INTERN,
    INTERN_TOWER: INTERN,
}
"""The supported types."""

NEARLY: Mapping[str, str] = {
    "pixtral": "its RoPE turns columns with other frequencies than rows",
    "mistral3": "its encoder is Pixtral's, whose RoPE turns columns with other frequencies than rows",
    "qwen2_vl": "its patch embedding reads two frames of a video",
    "qwen2_5_vl": "its patch embedding reads two frames of a video",
    "glm4v": "its patch embedding reads two frames of a video",
    "glm_ocr": "its patch embedding reads two frames of a video",
    "dots3_note": "it norms the patches before the first layer",
    "llama4": "it norms the patches before the first layer",
    "internvl": "it has transformers' names for what OpenGVLab's folder of the same model (internvl_chat) can give",
    "clip": "it norms the patches before the first layer",
    "siglip": "its MLP has another GELU",
    "aimv2": "it norms the patches before it adds positions",
}
"""Well-known encoders, by the beginning of their type, that this package's does not represent exactly, and why."""
