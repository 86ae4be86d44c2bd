"""What config.json of an exported model says: the shape of decoder and vision encoder, and the ids that lay out images.

Text fields are named as Qwen3's. Fields and their defaults are tables; what else config.json holds is transformers'.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import PreTrainedConfig

SPECIAL_ROWS = {"end_of_image": 3, "begin_of_image": 4, "end_of_line": 10, "end_of_scale": 11}
"""Rows of the tokens that lay out images in the table of special embeddings, as in NaViL's released code."""
SPECIAL_TABLE = 12
"""Rows of that table."""

CHOICES: dict[str, tuple[str, ...]] = {
    "image_mask": ("bidirectional", "causal"),
    "modality_experts": ("none", "ffn", "all"),
    "score_function": ("softmax", "sigmoid"),
    "mlp": ("swiglu", "gelu"),
    "norm": ("rms", "layer"),
    "positions": ("rotary", "table"),
    "connector": ("linear", "mlp", "pixel_shuffle"),
}
"""Fields of few values."""

VISION: dict[str, Any] = {
    "depth": 24,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_attention_heads": 6,
    "mlp": "swiglu",
    "bias": False,  # on the output projection and the MLP
    "qkv_bias": False,  # on queries, keys and values
    "norm": "rms",  # or "layer", with a bias
    "qk_norm": True,  # RMSNorm of each head's queries and keys
    "layer_scale": 0.0,  # first value of the learnt factor on every branch; 0 = no such factor
    "final_norm": True,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "positions": "rotary",  # or "table": a learnt vector for each place, added before the first layer
    "table_side": 0,  # rows, and columns, of that table; it is interpolated for other views
    "class_token": False,  # attends with each view, and no token is made of it
    "window_size": 0,  # side in patches of the squares that attend among themselves; 0 = layers see the whole view
    "full_attention_layers": [],  # layers that see the whole view although there are windows
    "connector": "linear",
}
"""Fields of the vision encoder and its connector, with their defaults."""

MODEL: dict[str, Any] = {
    "vocab_size": 50_432,
    "hidden_size": 800,
    "intermediate_size": 2304,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": None,  # as many as attention heads
    "head_dim": None,  # hidden_size / num_attention_heads
    "qk_norm": True,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 32_768,
    "initializer_range": 0.02,
    "use_cache": True,
    "image_mask": "bidirectional",  # attention among the tokens of one view of an image
    "modality_experts": "none",  # where image tokens have weights of their own: nowhere, in the MLP, in attention too
    "special_embeddings": False,  # the tokens that lay out images have a table of their own
    "num_experts": 0,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": None,  # intermediate_size
    "norm_topk_prob": False,
    "score_function": "softmax",
    "router_bias": False,
    "sparse_layers": [],  # layers whose MLP is a set of sparse experts
    "patch_size": 14,
    "num_channels": 3,
    "vision_config": None,  # early fusion: one linear layer from patches to the decoder
    "image_token_id": 4,
    "begin_of_image_token_id": 5,
    "end_of_image_token_id": 6,
    "end_of_line_token_id": 7,
    "end_of_scale_token_id": 8,
}
"""Fields of the model, with their defaults."""


class NativeMultimodalVisionConfig(PreTrainedConfig):
    """The vision encoder, a bidirectional transformer over the patches of each view, and its connector."""

    model_type = "native_multimodal_vision"

    def __init__(self, **fields: Any) -> None:
        """``fields`` are those of VISION. ValueError for a value that is none of CHOICES."""
        _set(self, VISION, fields)
        super().__init__(**fields)

    @property
    def merge_size(self) -> int:
        """Side of the square of patches that becomes one decoder token."""
        return 2 if self.connector == "pixel_shuffle" else 1


class NativeMultimodalConfig(PreTrainedConfig):
    """A decoder over text and image tokens, and what makes tokens of images."""

    model_type = "native_multimodal"
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": NativeMultimodalVisionConfig}
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    def __init__(self, **fields: Any) -> None:
        """``fields`` are those of MODEL, and transformers' own.

        ValueError for a value that is none of CHOICES, or a sparse layer that is none of the layers.
        """
        fields = _completed({**MODEL, **fields})
        _set(self, MODEL, fields)
        # Not every version of transformers keeps these by itself.
        kept = {name: fields.pop(name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        tied = fields.pop("tie_word_embeddings", False)
        super().__init__(tie_word_embeddings=tied, **kept, **fields)
        self.tie_word_embeddings = tied
        for name, value in kept.items():
            setattr(self, name, value)

    @property
    def patch_values(self) -> int:
        """Numbers in one flattened patch."""
        values: int = self.num_channels * self.patch_size**2
        return values

    @property
    def merge_size(self) -> int:
        """Side of the square of patches that becomes one decoder token."""
        return 1 if self.vision_config is None else self.vision_config.merge_size

    @property
    def special_rows(self) -> dict[int, int]:
        """Token id -> row in the table of special embeddings."""
        return {getattr(self, f"{name}_token_id"): row for name, row in SPECIAL_ROWS.items()}

    @property
    def image_ids(self) -> list[int]:
        """Ids of the image placeholder and of the tokens that lay images out; none of them is ever supervised."""
        return [self.image_token_id, *self.special_rows]


def _completed(fields: dict[str, Any]) -> dict[str, Any]:
    """What follows from other fields where it is not given, and the encoder's part as a configuration."""
    fields["num_key_value_heads"] = fields["num_key_value_heads"] or fields["num_attention_heads"]
    fields["head_dim"] = fields["head_dim"] or fields["hidden_size"] // fields["num_attention_heads"]
    fields["moe_intermediate_size"] = fields["moe_intermediate_size"] or fields["intermediate_size"]
    layers = fields["num_hidden_layers"]
    outside = [layer for layer in fields["sparse_layers"] if not 0 <= layer < layers]
    if outside:
        raise ValueError(f"sparse_layers {outside} are no layers; use numbers from 0 to {layers - 1}")
    if isinstance(fields["vision_config"], dict):
        fields["vision_config"] = NativeMultimodalVisionConfig(**fields["vision_config"])
    return fields


def _set(config: Any, table: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Take the fields of ``table`` out of ``fields`` and keep them."""
    for name, default in table.items():
        value = fields.pop(name, default)
        if name in CHOICES and value not in CHOICES[name]:
            raise ValueError(f"{name} {value!r} is unknown; use {' or '.join(CHOICES[name])}")
        setattr(config, name, list(value) if isinstance(default, list) else value)
