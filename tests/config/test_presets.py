"""The papers' tables: sizes, rates, and a legal run for every row."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from megatron_nmm.config import DataConfig, ModelConfig, OptimConfig, ParallelConfig, RunConfig, SparseConfig
from megatron_nmm.config.check import check
from megatron_nmm.config.presets import (
    EARLY_FUSION,
    LATE_FUSION,
    MODALITY_AWARE,
    SPARSE,
    early_fusion,
    late_fusion,
    learning_rate,
    modality_aware,
    navil,
    sparse_early_fusion,
)
from megatron_nmm.errors import ConfigError

# Table 6: width, SwiGLU width, peak learning rate.
TABLE_6 = {
    "0.275b": (800, 2304, 1.5e-3),
    "0.464b": (1088, 3072, 1.5e-3),
    "0.932b": (1632, 4352, 5e-4),
    "1.627b": (2208, 5888, 4.2e-4),
    "2.280b": (2624, 7168, 4e-4),
    "3.354b": (3232, 8704, 3.5e-4),
}


@pytest.mark.parametrize("label", TABLE_6)
def test_row_equals_the_paper(label: str) -> None:
    model = early_fusion(label)
    assert (model.width, model.ffn_width, learning_rate(label)) == TABLE_6[label]
    assert (model.layers, model.vocabulary, model.tie_embeddings, model.vision.depth) == (24, 50_432, False, 0)


def test_largest_row_has_the_derived_width_and_no_rate() -> None:
    assert (early_fusion("8.129b").ffn_width, early_fusion("8.129b").head_width) == (13_824, 128)
    with pytest.raises(ConfigError, match=r"no learning rate for its 8\.129b model; choose one"):
        learning_rate("8.129b")


LATE_6 = {
    # encoder width and SwiGLU width, decoder width, peak learning rate
    "0.289b": (384, 1024, 768, 1.5e-3),
    "0.494b": (512, 1536, 1024, 1.5e-3),
    "1b": (768, 2048, 1536, 5e-4),
    "1.748b": (1024, 2816, 2048, 4.2e-4),
    "2.430b": (1184, 3328, 2464, 3.8e-4),
    "3.714b": (1536, 4096, 3072, 3.3e-4),
}


def test_late_fusion_equals_the_paper() -> None:
    assert LATE_FUSION.keys() == LATE_6.keys()
    for label, row in LATE_6.items():
        model = late_fusion(label)
        found = (model.vision.width, model.vision.ffn_width, model.width, LATE_FUSION[label].learning_rate)
        assert found == row
        assert (model.layers, model.vision.depth, model.vocabulary, model.vision.mlp) == (24, 24, 50_432, "swiglu")


def test_modality_aware_differs_from_early_fusion_in_its_experts_alone() -> None:
    for label in MODALITY_AWARE:
        assert modality_aware(label) == replace(early_fusion(label), modality_experts="ffn")


def test_sparse_differs_from_early_fusion_in_its_experts_alone() -> None:
    """P1 section 2: eight experts, one a token, in every layer; balance loss 0.01."""
    for label in EARLY_FUSION:
        eight = SparseConfig(experts=8, top_k=1, ffn=None, dense_layers=(), score="softmax", balance_loss=0.01)
        assert sparse_early_fusion(label) == replace(early_fusion(label), sparse=eight)
        assert len(sparse_early_fusion(label).sparse_layers) == 24


@pytest.mark.parametrize(
    ("variant", "experts", "top_k", "width"),
    [("4e-top1", 4, 1, 5888), ("8e-top1", 8, 1, 5888), ("8e-top2", 8, 2, 5888), ("8e-top2-fine", 8, 2, 2944)],
)
def test_variants_of_table_13(variant: str, experts: int, top_k: int, width: int) -> None:
    model = sparse_early_fusion("1.627b", variant)
    assert (model.sparse.experts, model.sparse.top_k, model.expert_width, model.ffn_width) == (
        experts,
        top_k,
        width,
        5888,
    )


@pytest.mark.parametrize(
    ("label", "encoder", "decoder", "groups"),
    [("2b", (24, 1472, 5888, 23), (24, 2048, 8192, 16), 8), ("9b", (32, 1792, 7168, 28), (36, 4096, 12_288, 32), 8)],
)
def test_navil_equals_its_table(label: str, encoder: tuple[int, ...], decoder: tuple[int, ...], groups: int) -> None:
    model, vision = navil(label), navil(label).vision
    assert (vision.depth, vision.width, vision.ffn_width, vision.heads) == encoder
    assert (model.layers, model.width, model.ffn_width, model.heads) == decoder
    assert (vision.head_width, model.head_width, model.kv_heads) == (64, 128, groups)
    assert (model.image_mask, model.modality_experts, model.special_embeddings) == ("causal", "all", True)
    assert (vision.patch, vision.shuffle, vision.layer_scale, vision.bias) == (16, 2, 0.1, True)


FAMILY = {
    **{f"early {label}": early_fusion(label) for label in EARLY_FUSION},
    **{f"late {label}": late_fusion(label) for label in LATE_FUSION},
    **{f"modality-aware {label}": modality_aware(label) for label in MODALITY_AWARE},
    **{f"sparse {label}": sparse_early_fusion(label) for label in EARLY_FUSION},
    **{f"sparse 1.627b {variant}": sparse_early_fusion("1.627b", variant) for variant in SPARSE},
    "NaViL-2B": navil("2b"),
    "NaViL-9B": navil("9b"),
}


@pytest.mark.parametrize("model", FAMILY.values(), ids=list(FAMILY))
@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
def test_every_row_is_legal_in_the_usual_layouts(model: ModelConfig, tensor: int) -> None:
    rule = DataConfig()
    if model.special_embeddings:
        rule = DataConfig(image_rule="native", multi_scale=True, augment=False, sequence_length=16_384)
    run = RunConfig(model=model, data=rule, optim=OptimConfig(learning_rate=1e-4))
    run = replace(run, parallel=ParallelConfig(tensor=tensor, pipeline=4, sequence=tensor > 1))
    assert check(run, 8 * tensor * 4) == ()


@pytest.mark.parametrize(
    ("preset", "label", "told"),
    [
        (early_fusion, "0.27b", r"no early-fusion size is called 0\.27b; the nearest is 0\.275b, all are"),
        (late_fusion, "2.43b", r"no late-fusion size is called 2\.43b; the nearest is 2\.430b, all are 0\.289b, "),
        (modality_aware, "2.280b", r"no modality-aware size is called 2\.280b; the nearest is "),
        (sparse_early_fusion, "1.6b", r"no early-fusion size is called 1\.6b; the nearest is 1\.627b, all are"),
        (navil, "8b", r"no NaViL is called 8b; the nearest is (2|9)b, all are 2b, 9b"),
    ],
)
def test_unknown_label(preset: Callable[[str], ModelConfig], label: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        preset(label)


def test_unknown_variant() -> None:
    with pytest.raises(ConfigError, match=r"no sparse variant is called 8e-top3; the nearest is 8e-top(1|2), all are"):
        sparse_early_fusion("0.275b", "8e-top3")


def test_label_in_capitals() -> None:
    assert early_fusion("0.275B") == early_fusion("0.275b")
    assert navil("2B") == navil("2b")
    assert late_fusion("1B") == late_fusion("1b")
    assert modality_aware("0.275B") == modality_aware("0.275b")
    assert sparse_early_fusion("0.275B", "8E-top1") == sparse_early_fusion("0.275b")
