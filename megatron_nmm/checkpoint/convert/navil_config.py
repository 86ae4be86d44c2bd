"""The config.json of NaViL's released code: an encoder, and InternLM2's or Qwen3's decoder with visual experts."""

from collections.abc import Iterator
from typing import Any

from megatron_nmm.checkpoint.convert import text_config
from megatron_nmm.checkpoint.convert.limits import Limit
from megatron_nmm.config import RunConfig
from megatron_nmm.config.hf_config import Raw, Refusal
from megatron_nmm.config.hf_vision import NAVIL, NAVIL_TOWER, NAVIL_WHOLE

MODEL_TYPE = NAVIL_WHOLE
DECODERS = {"InternLM2VEForCausalLM": "internlm2", "Qwen3VEForCausalLM": "qwen3"}
"""Architecture of ``llm_config`` -> the language model it grew from."""
MIN_PATCHES, MAX_PATCHES = 256, 24_576
"""What the released code takes where config.json names none."""

LIMITS = (
    Limit("model.modality_experts", "all"),
    Limit("model.special_embeddings", True),
    Limit("model.image_mask", "causal"),
    Limit("model.sparse.experts", 0, lambda run: not run.model.sparse_layers),
    Limit("model.head_dim", "width / heads, or norms of queries and keys", lambda run: _square(run)),
    Limit("model.vision.depth", "an encoder", lambda run: run.model.vision.depth > 0),
    Limit("model.vision.mlp", "gelu"),
    Limit("model.vision.bias", True),
    Limit("model.vision.qkv_bias", False),
    Limit("model.vision.norm", "rms"),
    Limit("model.vision.positions", "rotary"),
    Limit("model.vision.qk_norm", False),
    Limit("model.vision.final_norm", False),
    Limit("model.vision.layer_scale", "one above 0", lambda run: run.model.vision.layer_scale > 0),
    Limit("model.vision.connector", "pixel_shuffle"),
    Limit("model.vision.rope_base", 10_000.0),
    Limit("data.image_rule", "native"),
)
"""What the released code's model is."""


def _square(run: RunConfig) -> bool:
    return run.model.qk_norm or run.model.head_width * run.model.heads == run.model.width


def settings(raw: Raw) -> dict[str, Any]:
    """Setting -> value. KeyError names what config.json lacks, or a decoder that is unknown."""
    text = text_config.settings(DECODERS[raw["llm_config"]["architectures"][0]], raw["llm_config"])
    vision = {f"model.{setting.key}": setting.theirs(raw) for setting in NAVIL.settings}
    shuffle = raw.get("downsample_ratio", 0.5)
    if shuffle != 0.5:
        raise ValueError(f"downsample_ratio {shuffle} where 0.5 is supported")
    return {
        **text,
        **vision,
        "model.vision.connector": "pixel_shuffle",
        "model.modality_experts": "all",
        "model.special_embeddings": True,
        "model.image_mask": "causal",
        "data.image_rule": "native",
        "data.min_patches": raw.get("min_dynamic_patch", MIN_PATCHES),
        "data.max_patches": raw.get("max_dynamic_patch", MAX_PATCHES),
        "data.multi_scale": True,
    }


def refusals(raw: Raw) -> Iterator[tuple[Raw, Refusal]]:
    """What in such a folder is refused."""
    yield from ((raw, refusal) for refusal in NAVIL.refusals)
    yield from text_config.refusals(DECODERS[raw["llm_config"]["architectures"][0]], raw["llm_config"])


def config_json(run: RunConfig) -> dict[str, Any]:
    """The fields that follow from ``run``."""
    vision = run.model.vision
    decoder = "Qwen3VEForCausalLM" if run.model.qk_norm else "InternLM2VEForCausalLM"
    windows = {"fullatt_block_indexes": list(vision.full_layers), "window_size": vision.window}
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["NaViL"],
        "llm_config": text_config.config_json(DECODERS[decoder], run) | {"architectures": [decoder]},
        "vision_config": {
            "model_type": NAVIL_TOWER,
            "num_channels": vision.channels,
            "patch_size": vision.patch,
            "hidden_size": vision.width,
            "num_attention_heads": vision.heads,
            "intermediate_size": vision.ffn_width,
            "num_hidden_layers": vision.depth,
            "qkv_bias": False,
            "qk_normalization": False,
            "hidden_act": "gelu",
            "norm_type": "rms_norm",
            "layer_norm_eps": vision.norm_epsilon,
            "initializer_factor": vision.layer_scale,
            **(windows if vision.window else {"fullatt_block_indexes": None}),
        },
        "downsample_ratio": 0.5,
        "template": "internlm2-chat",
        "min_dynamic_patch": run.data.min_patches,
        "max_dynamic_patch": run.data.max_patches,
    }
