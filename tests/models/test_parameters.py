"""Parameter counts of the real model, built on the meta device, equal the papers' tables and our own accounting."""

from dataclasses import replace

import pytest

from megatron_nmm.config import ModelConfig, RunConfig, SparseConfig, VisionConfig
from megatron_nmm.config.presets import SPARSE, early_fusion, late_fusion, modality_aware, navil, sparse_early_fusion
from megatron_nmm.models.accounting import parameters
from megatron_nmm.models.parts import part_of
from megatron_nmm.verify.workers import Place, WorkerPool

EARLY = {
    "0.275b": 0.275,
    "0.464b": 0.464,
    "0.932b": 0.932,
    "1.627b": 1.627,
    "2.280b": 2.280,
    "3.354b": 3.354,
    "8.129b": 8.129,
}
"""P1 Table 6 and its hold-out model, billions of decoder and embedding parameters."""
LATE = {"1.748b": 1.748, "2.430b": 2.430}
"""P1's late-fusion sizes that one way of counting meets to three decimals: encoder and decoder matrices, embeddings."""
SPARSE_TOTALS = {"0.275b": 1.20, "0.464b": 2.15, "0.932b": 4.51, "1.627b": 8.18, "2.280b": 11.76, "3.354b": 17.53}
"""Early-fusion sizes with eight experts in all 24 layers, every one of them counted, as Table 6 counts (derived)."""
SMALL = ModelConfig(layers=2, width=64, heads=4, query_groups=2, ffn=96, vocabulary=128)
ENCODER = VisionConfig(depth=3, width=48, heads=3, patch=4)


def _count(place: Place, run: RunConfig) -> dict[str, int]:
    import torch

    from megatron_nmm.models.native import NativeMultimodalModel
    from megatron_nmm.models.to_mcore import transformer_config

    with place.world(run.parallel) as world:
        config = transformer_config(run, world)
        config.perform_initialization = False
        config.use_cpu_initialization = True
        with torch.device("meta"):
            model = NativeMultimodalModel(run, config, world)
    return {name: p.numel() for name, p in model.named_parameters()}


def built(model: ModelConfig, pool: WorkerPool) -> dict[str, int]:
    """Tensor -> values of the real model, which are also those of the table, part by part."""
    counts: dict[str, int] = pool.run(1, _count, RunConfig(model=model))[0]
    parts: dict[str, int] = {}
    for name, count in counts.items():
        parts[part_of(name)] = parts.get(part_of(name), 0) + count
    assert parts == parameters(model).by_part
    assert sum(counts.values()) == parameters(model).total
    return counts


def billions(counts: dict[str, int], pattern: tuple[str, ...], without: tuple[str, ...] = ()) -> float:
    """Values of the tensors whose names hold one of ``pattern`` and none of ``without``."""
    chosen = [
        n for name, n in counts.items() if any(p in name for p in pattern) and not any(w in name for w in without)
    ]
    return sum(chosen) / 1e9


MATRICES = ("linear_qkv.weight", "linear_proj.weight", "linear_fc1.weight", "linear_fc2.weight")
TABLES = ("word_embeddings", "output_layer")


@pytest.mark.parametrize("label", EARLY)
def test_early_fusion_to_three_decimals(label: str, pool: WorkerPool) -> None:
    counts = built(early_fusion(label), pool)
    assert round(billions(counts, MATRICES + TABLES), 3) == EARLY[label]
    expected = parameters(early_fusion(label))
    assert sum(n for name, n in counts.items() if name.startswith("patch_stem")) == expected.vision
    assert sum(n for name, n in counts.items() if "norm" in name) == expected.norms


@pytest.mark.parametrize("label", LATE)
def test_late_fusion_to_three_decimals(label: str, pool: WorkerPool) -> None:
    counts = built(late_fusion(label), pool)
    assert round(billions(counts, MATRICES + TABLES), 3) == LATE[label]


def test_modality_aware_mlp_doubles_the_mlps_alone(pool: WorkerPool) -> None:
    dense, aware = built(early_fusion("0.275b"), pool), built(modality_aware("0.275b"), pool)
    added = {name: n for name, n in aware.items() if name not in dense}
    assert sum(added.values()) == sum(n for name, n in dense.items() if ".mlp." in name) == 24 * 3 * 800 * 2304
    assert all(".mlp.visual." in name for name in added)


@pytest.mark.parametrize("label", SPARSE_TOTALS)
def test_sparse_sizes(label: str, pool: WorkerPool) -> None:
    """Active like the dense model of that label, eight times its MLPs in total, and a router in every layer besides."""
    model, dense = sparse_early_fusion(label), parameters(early_fusion(label))
    counts, table = built(model, pool), parameters(model)
    experts = tuple(f".mlp.experts.{name}.weight" for name in ("linear_fc1", "linear_fc2"))
    assert round(billions(counts, MATRICES + TABLES), 2) == SPARSE_TOTALS[label] == round(table.paper_total / 1e9, 2)
    assert (table.paper, table.decoder) == (dense.paper, dense.decoder)
    assert sum(n for name, n in counts.items() if name.endswith(experts)) == 8 * dense.by_part["ffn"]
    assert sum(n for name, n in counts.items() if ".router." in name) == table.routers == 24 * 8 * model.width
    assert table.active == dense.total + table.routers
    assert table.total == table.active + table.idle_experts == table.active + 7 * dense.by_part["ffn"]


@pytest.mark.parametrize(("variant", "active", "total"), list(zip(SPARSE, (1, 1, 2, 1), (4, 8, 8, 4), strict=True)))
def test_sparse_variants(variant: str, active: int, total: int, pool: WorkerPool) -> None:
    """Active and all experts of a layer, in units of the dense model's MLP."""
    model, dense = sparse_early_fusion("0.275b", variant), parameters(early_fusion("0.275b"))
    table = parameters(model)
    built(model, pool)
    assert table.decoder - dense.decoder == (active - 1) * dense.by_part["ffn"]
    assert table.by_part["ffn"] == total * dense.by_part["ffn"]


@pytest.mark.parametrize(
    ("label", "encoder", "language_model", "active", "total"),
    [
        # papers.md counts: 12 d w^2; InternLM2-1.8B and Qwen3-8B as published; both together; with visual experts.
        ("2b", 12 * 24 * 1472**2, 1.889, 2.53, 4.04),
        ("9b", 12 * 32 * 1792**2, 8.191, 9.47, 16.42),
    ],
)
def test_navil(label: str, encoder: int, language_model: float, active: float, total: float, pool: WorkerPool) -> None:
    counts, table = built(navil(label), pool), parameters(navil(label))
    vision = {name: n for name, n in counts.items() if name.startswith("vision_encoder.block")}
    assert sum(n for name, n in vision.items() if name.endswith(MATRICES)) == encoder == table.vision_matrices
    text = billions(counts, ("decoder.", *TABLES), without=("visual",))
    assert text == pytest.approx(language_model, abs=5e-4)
    assert round(table.active / 1e9, 2) == active
    assert round(sum(counts.values()) / 1e9, 2) == total
    twins = {name: n for name, n in counts.items() if ".visual." in name}
    assert {name.replace("visual.", ""): n for name, n in twins.items()} == {
        name: n
        for name, n in counts.items()
        if name.startswith("decoder.layers") and "visual" not in name and not name.split(".")[3].endswith("layernorm")
    }
    assert sum(twins.values()) == table.visual_experts


def test_intern_vit(pool: WorkerPool) -> None:
    """InternViT-300M-448px as its config.json has it; the sum is worked out by hand from its tensors."""
    vision = VisionConfig(
        depth=24,
        width=1024,
        heads=16,
        ffn=4096,
        mlp="gelu",
        bias=True,
        qkv_bias=True,
        norm="layer",
        qk_norm=False,
        layer_scale=0.1,
        final_norm=False,
        positions="table",
        table_side=448 // 14,
        class_token=True,
    )
    counts = built(replace(SMALL, vision=vision), pool)
    w, layer = 1024, 12 * 1024**2 + (3 + 1 + 4 + 1) * 1024 + 2 * 2 * 1024 + 2 * 1024
    by_hand = 24 * layer + (3 * 14**2 * w + w) + w + (1 + 32**2) * w
    encoder = [n for name, n in counts.items() if "vision_encoder" in name and "connector" not in name]
    assert sum(encoder) == parameters(replace(SMALL, vision=vision)).vision == by_hand == 304_012_288


@pytest.mark.parametrize(
    "model",
    [
        replace(early_fusion("0.275b"), query_groups=4, tie_embeddings=True, qk_norm=False),
        replace(SMALL, head_dim=32),
        replace(SMALL, vision=ENCODER),
        replace(SMALL, vision=replace(ENCODER, mlp="gelu", connector="mlp", qk_norm=False, final_norm=False)),
        replace(SMALL, vision=replace(ENCODER, bias=True, layer_scale=0.1, connector="pixel_shuffle", ffn=40)),
        replace(SMALL, vision=replace(ENCODER, mlp="gelu", bias=True, window=4, full_layers=(1,))),
        replace(SMALL, vision=replace(ENCODER, norm="layer", qkv_bias=True, positions="table", table_side=3)),
        replace(SMALL, modality_experts="all", special_embeddings=True, tie_embeddings=True),
        replace(SMALL, modality_experts="all", qk_norm=False, head_dim=24),
        replace(SMALL, modality_experts="ffn", special_embeddings=True, vision=ENCODER),
        replace(SMALL, layers=3, sparse=SparseConfig(experts=4, top_k=2, ffn=40, dense_layers=(0, 2)), vision=ENCODER),
        replace(SMALL, sparse=SparseConfig(experts=6, score="sigmoid", bias_rate=1e-3), tie_embeddings=True),
    ],
    ids=[
        "grouped, tied",
        "wide heads",
        "late",
        "gelu, mlp",
        "biases, scales, shuffle",
        "windows",
        "table",
        "experts",
        "plain",
        "ffn",
        "dense layers",
        "bias of the router",
    ],
)
def test_every_choice_counts(model: ModelConfig, pool: WorkerPool) -> None:
    counts = built(model, pool)
    assert all(counts.values())
