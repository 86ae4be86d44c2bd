"""Tiny runs of every kind of model that an export can hold, and one tokenizer for all of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer as Tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from megatron_nmm.config import DataConfig, ModelConfig, PrecisionConfig, RunConfig, SparseConfig, VisionConfig
from megatron_nmm.data.tokens import Tokenizer
from tests.data.corpora import WORDS, encode

PATCH = 4
LATE = VisionConfig(depth=2, width=32, heads=2, ffn=56, patch=PATCH)
NAVIL = VisionConfig(
    depth=2,
    width=48,
    heads=3,
    ffn=80,
    mlp="gelu",
    bias=True,
    qk_norm=False,
    layer_scale=0.1,
    final_norm=False,
    norm_epsilon=1e-6,
    connector="pixel_shuffle",
    patch=PATCH,
)
INTERN_VIT = replace(NAVIL, heads=4, norm="layer", qkv_bias=True, positions="table", table_side=5, class_token=True)
NATIVE: dict[str, Any] = {"image_rule": "native", "min_patches": 16, "max_patches": 64, "multi_scale": True}

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "early": ({}, {}),
    "early, tied, causal images, native": (
        {"tie_embeddings": True, "image_mask": "causal", "qk_norm": False, "query_groups": None},
        {**NATIVE, "max_patches": 32},
    ),
    "late": ({"vision": LATE}, {}),
    "late, windows, two matrices": (
        {"vision": replace(LATE, window=4, full_layers=(1,), connector="mlp"), "head_dim": 16},
        {"image_size": 24},
    ),
    "navil": (
        {"vision": NAVIL, "modality_experts": "all", "special_embeddings": True, "image_mask": "causal"},
        NATIVE,
    ),
    "navil, bidirectional, windows": (
        {"vision": replace(NAVIL, window=4, bias=False), "modality_experts": "all", "special_embeddings": True},
        NATIVE,
    ),
    "internvit": ({"vision": INTERN_VIT}, NATIVE),
    "a table, windows": (
        {"vision": replace(INTERN_VIT, class_token=False, window=4, final_norm=True, connector="linear")},
        {},
    ),
    "modality-aware": ({"modality_experts": "ffn"}, {}),
    "sparse top-1": ({"sparse": SparseConfig(experts=4)}, {}),
    "sparse top-2": ({"sparse": SparseConfig(experts=4, top_k=2, ffn=24, normalise=True, dense_layers=(1,))}, {}),
    "sparse, sigmoid and bias": (
        {"sparse": SparseConfig(experts=4, top_k=2, score="sigmoid", bias_rate=1e-3), "vision": LATE},
        {},
    ),
}
"""Name -> what differs in the model and in the data from early fusion."""


def run_of(name: str, tokenizer: Tokenizer) -> RunConfig:
    """The run of a variant; its weights are large enough that no two tokens score alike."""
    model, data = VARIANTS[name]
    shape: dict[str, Any] = {
        "layers": 3,
        "width": 32,
        "heads": 4,
        "query_groups": 2,
        "ffn": 48,
        "vocabulary": tokenizer.size,
        "init_std": 0.2,
        "vision": VisionConfig(patch=PATCH),
    }
    values: dict[str, Any] = {
        "tokenizer": str(tokenizer.path),
        "sequence_length": 256,
        "image_size": 4 * PATCH,
        "decoder": "pillow",
        "augment": False,
    }
    return RunConfig(
        model=ModelConfig(**{**shape, **model}),
        data=DataConfig(**{**values, **data}),
        precision=PrecisionConfig("fp32"),
    )


def write_tokenizer(folder: Path) -> Tokenizer:
    """A byte-level tokenizer.json that knows two special tokens; the others are appended by training."""
    made = Tokenizers(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|vision_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    made.save(str(folder / "tokenizer.json"))
    return Tokenizer(folder / "tokenizer.json")


def picture(seed: int, height: int, width: int, mode: str = "RGB") -> Image.Image:
    """Random colours."""
    channels = len(mode)
    pixels = np.random.RandomState(seed).randint(0, 256, size=(height, width, channels)).astype(np.uint8)
    return Image.fromarray(pixels, mode=mode)


def file_of(image: Image.Image) -> bytes:
    """Its bytes as a PNG."""
    return encode(image, "PNG")
