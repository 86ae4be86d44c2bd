"""Toy models of every form, the layouts that train them, and jobs that begin a run with converted weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from megatron_nmm.checkpoint.initialise import initialise
from megatron_nmm.config import InitConfig, ModelConfig, ParallelConfig, RunConfig, SparseConfig, VisionConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.build import build
from megatron_nmm.train.optim import Optimizer
from megatron_nmm.verify.layouts import LAYOUTS, SINGLE
from megatron_nmm.verify.workers import Place
from tests.checkpoint import jobs

LAYOUT = {layout.name: layout for layout in (*LAYOUTS, SINGLE)}
LATE = VisionConfig(depth=2, width=32, heads=2, ffn=48, patch=8, connector="mlp")
NAVIL_VISION = VisionConfig(
    depth=2,
    width=24,
    heads=3,
    ffn=40,
    mlp="gelu",
    bias=True,
    qk_norm=False,
    layer_scale=0.1,
    final_norm=False,
    norm_epsilon=1e-6,
    connector="pixel_shuffle",
    patch=8,
)
INTERN_VIT = replace(
    NAVIL_VISION, heads=2, norm="layer", qkv_bias=True, positions="table", table_side=3, class_token=True
)
NAVIL: dict[str, Any] = {
    "modality_experts": "all",
    "special_embeddings": True,
    "image_mask": "causal",
    "query_groups": 2,
    "vision": NAVIL_VISION,
}

FORMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "early": ("TP2", "fp32", {"query_groups": 2}),
    "late": ("PP2", "bf16", {"vision": LATE, "tie_embeddings": True, "qk_norm": False}),
    "late, gated with biases": (
        "DP2+distributed optimizer",
        "fp32",
        {"vision": replace(LATE, bias=True, connector="linear"), "modality_experts": "ffn"},
    ),
    "InternViT": ("TP2", "fp32", {"vision": INTERN_VIT}),
    "NaViL of Qwen3": ("TP2xPP2+SP", "bf16", {**NAVIL, "head_dim": 16}),
    "NaViL of InternLM2": ("one process", "fp32", {**NAVIL, "qk_norm": False}),
    "sparse": ("EP2xTP2+SP", "bf16", {"sparse": SparseConfig(experts=4, top_k=2, ffn=24, bias_rate=1e-2)}),
    "sparse in part": ("EP2", "fp32", {"sparse": SparseConfig(experts=4, dense_layers=(0,)), "query_groups": 2}),
}
"""Form -> the layout and the number format that it is trained in, and fields of its model."""


def run_of(form: str) -> RunConfig:
    """The toy of a form, in its layout."""
    layout, dtype, changes = FORMS[form]
    run = jobs.toy(LAYOUT[layout], dtype)
    model: ModelConfig = replace(run.model, **changes)
    if model.vision.connector != "pixel_shuffle" or not model.vision.depth:
        return replace(run, model=model)
    return replace(run, model=model, data=replace(run.data, image_rule="native", min_patches=4, max_patches=24))


def processes_of(form: str) -> int:
    """Of its layout."""
    return LAYOUT[FORMS[form][0]].processes


def alone(run: RunConfig) -> RunConfig:
    """The same in one process."""
    return replace(run, parallel=ParallelConfig())


def first_losses(place: Place, run: RunConfig, source: Path) -> list[float]:
    """Losses of two steps of a run that begins with the weights in ``source``."""
    run = replace(run, folder=str(source / "next"), init=InitConfig(checkpoint=str(source)))
    with place.world(run.parallel, run.seed) as world:
        model: Any = build(run, world)
        initialise(run, model, world, lambda line: None)
        return jobs.Session(run, world, model, Optimizer(run, model, world)).train(1, 2)


def scores(place: Place, run: RunConfig, source: Path, batch: Batch) -> torch.Tensor:
    """[B, S, V] of a run that begins with the weights in ``source``."""
    run = replace(run, folder=str(source / "next"), init=InitConfig(checkpoint=str(source)))
    with place.world(run.parallel, run.seed) as world:
        model: Any = build(run, world)
        initialise(run, model, world, lambda line: None)
        with torch.no_grad():
            found: torch.Tensor = model.module(batch, logits=True)
        return found
