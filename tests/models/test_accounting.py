"""Counts: the papers' sizes, small models counted by hand, FLOPs with frozen parts."""

from dataclasses import asdict, fields, replace

import pytest

from megatron_nmm.config import ModelConfig, RatesConfig, SparseConfig, VisionConfig
from megatron_nmm.config.presets import (
    EARLY_FUSION,
    LATE_FUSION,
    MODALITY_AWARE,
    NAVIL,
    early_fusion,
    late_fusion,
    modality_aware,
    navil,
    sparse_early_fusion,
)
from megatron_nmm.data.rule import SPECIAL_TABLE
from megatron_nmm.models.accounting import IMAGE_SHARE, Work, parameters, six_nd, step_flops
from megatron_nmm.models.accounting.tensors import SPECIAL_ROWS

SMALL = ModelConfig(
    layers=2, width=6, heads=3, query_groups=1, ffn=5, vocabulary=11, vision=VisionConfig(patch=2, channels=3)
)
LATE = replace(SMALL, vision=VisionConfig(patch=2, depth=3, width=8, heads=2, ffn=7))
NAVIL_LIKE = replace(
    SMALL,
    modality_experts="all",
    special_embeddings=True,
    vision=replace(
        LATE.vision,
        mlp="gelu",
        bias=True,
        qk_norm=False,
        layer_scale=0.1,
        final_norm=False,
        connector="pixel_shuffle",
        window=4,
        full_layers=(1,),
    ),
)
SPARSE = replace(SMALL, layers=3, sparse=SparseConfig(experts=4, top_k=2, ffn=3, dense_layers=(1,)))
WORK = Work(
    tokens=7,
    attended_pairs=20,
    logit_tokens=3,
    patches=4,
    filled_tokens=6,
    visual_tokens=2,
    view_pairs=16,
    window_pairs=10,
)
"""Of a step; the small numbers tell which count a term was multiplied with."""


@pytest.mark.parametrize("label", EARLY_FUSION)
def test_early_fusion_to_three_decimals(label: str) -> None:
    assert f"{parameters(early_fusion(label)).paper / 1e9:.3f}b" == label


def test_paper_sizes_are_the_seven_of_the_paper() -> None:
    counted = [round(parameters(early_fusion(label)).paper / 1e9, 3) for label in EARLY_FUSION]
    assert counted == [0.275, 0.464, 0.932, 1.627, 2.280, 3.354, 8.129]


def test_paper_count_equals_its_closed_form() -> None:
    model = early_fusion("1.627b")
    w, h = 2208, 5888
    assert parameters(model).paper == 24 * (4 * w * w + 3 * w * h) + 2 * 50_432 * w


@pytest.mark.parametrize("label", LATE_FUSION)
def test_late_fusion(label: str) -> None:
    """Two sizes exactly, the one the paper rounds to 1B as such, the others within 0.3 %."""
    counted = parameters(late_fusion(label))
    billions = counted.paper / 1e9
    if label == "1b":
        assert round(billions, 2) == 1.00
    else:
        assert billions == pytest.approx(float(label[:-1]), rel=0.003)
        assert (f"{billions:.3f}b" == label) == (label in ("1.748b", "2.430b"))
    model = late_fusion(label)
    w, h, v, f = model.width, model.ffn_width, model.vision.width, model.vision.ffn_width
    assert counted.paper == 24 * (4 * w * w + 3 * w * h + 4 * v * v + 3 * v * f) + 2 * 50_432 * w


@pytest.mark.parametrize("label", MODALITY_AWARE)
def test_modality_aware_has_the_active_size_of_early_fusion(label: str) -> None:
    aware, early = parameters(modality_aware(label)), parameters(early_fusion(label))
    assert (aware.paper, aware.active) == (early.paper, early.total)
    assert aware.total - early.total == aware.by_part["ffn"] == aware.by_part["visual_ffn"]


@pytest.mark.parametrize(
    ("label", "encoder", "total"), [("2b", 624e6, 4.04e9), ("9b", 1233e6, 16.4e9)], ids=list(NAVIL)
)
def test_navil(label: str, encoder: float, total: float) -> None:
    counted, vision = parameters(navil(label)), navil(label).vision
    assert counted.vision_matrices == 12 * vision.depth * vision.width**2 == pytest.approx(encoder, abs=0.5e6)
    assert counted.total == pytest.approx(total, rel=0.002)
    assert counted.visual_experts == counted.by_part["attention"] + counted.by_part["ffn"]
    assert counted.active == counted.total - counted.visual_experts


def test_small_model_counted_by_hand() -> None:
    # head width 2: qkv 6 x (3 + 2) x 2 = 60, proj 36, fc1 6 x 10 = 60, fc2 5 x 6 = 30
    counted = parameters(SMALL)
    assert counted.decoder == 2 * (60 + 36 + 60 + 30)
    assert counted.embeddings == 2 * 11 * 6
    assert counted.norms == 2 * (6 + 6 + 2 + 2) + 6
    assert counted.vision == 3 * 2 * 2 * 6 + 6
    assert counted.paper == 372 + 132
    assert counted.total == counted.active == 372 + 132 + 38 + 78
    assert counted.by_part == {
        "vision": 78,
        "embeddings": 66,
        "norms": 2 * 12 + 6,
        "attention": 2 * (60 + 36 + 2 + 2),
        "ffn": 2 * (60 + 30),
        "output": 66,
    }


def test_small_encoders_counted_by_hand() -> None:
    # stem 12 x 8 + 8; layer: qkv 192, proj 64, fc1 8 x 14, fc2 7 x 8, norms 16, q/k-norms 2 x 4; final norm 8
    late = parameters(LATE)
    assert late.vision_matrices == 3 * (192 + 64 + 112 + 56)
    assert late.vision == 104 + 3 * (192 + 64 + 112 + 56 + 16 + 8) + 8
    assert late.connector == 8 * 6 + 6
    assert late.total - late.vision - late.connector == parameters(SMALL).total - parameters(SMALL).vision
    # one matrix less in the MLP; biases 8 + 7 + 8, scales 16, no q/k- or final norm; connector 4 x 8 wide
    like = parameters(NAVIL_LIKE)
    assert like.vision == 104 + 3 * (192 + 64 + 56 + 56 + 16 + 23 + 16)
    assert like.connector == 2 * 32 + (32 * 6 + 6) + (36 + 6)
    assert like.visual_experts == 2 * (60 + 36 + 60 + 30 + 4)
    assert like.special_embeddings == 12 * 6
    assert parameters(replace(NAVIL_LIKE, modality_experts="ffn")).visual_experts == 2 * (60 + 30)


def test_small_sparse_model_counted_by_hand() -> None:
    # An expert: fc1 6 x 6, fc2 3 x 6; of four a token takes two. Two layers are sparse, the third has 60 + 30.
    counted, dense = parameters(SPARSE), parameters(replace(SMALL, layers=3))
    assert counted.idle_experts == 2 * 2 * (36 + 18)
    assert counted.routers == counted.by_part["router"] == 2 * 4 * 6
    assert counted.by_part["ffn"] == 2 * 4 * (36 + 18) + 90
    assert counted.decoder == 3 * (60 + 36) + 2 * 2 * (36 + 18) + 90
    assert counted.total == dense.total - 2 * 90 + 2 * 4 * (36 + 18) + counted.routers
    assert counted.active == counted.total - counted.idle_experts
    assert counted.paper == counted.decoder + 132
    assert counted.paper_total == counted.paper + counted.idle_experts
    assert (dense.idle_experts, dense.routers, dense.paper_total) == (0, 0, dense.paper)


def test_rows_of_the_special_table_are_those_of_the_data() -> None:
    assert SPECIAL_ROWS == SPECIAL_TABLE


def test_tied_embeddings_count_once_and_queries_without_norm_not_at_all() -> None:
    counted = parameters(replace(SMALL, tie_embeddings=True, qk_norm=False))
    assert counted.embeddings == 11 * 6
    assert counted.norms == 2 * (6 + 6) + 6


DECODER = {
    "linear_qkv": 2 * 2 * 7 * 60,
    "linear_proj": 2 * 2 * 7 * 36,
    "linear_fc1": 2 * 2 * 7 * 60,
    "linear_fc2": 2 * 2 * 7 * 30,
    "attention_scores": 2 * 2 * 20 * 3 * 2,
    "attention_values": 2 * 2 * 20 * 3 * 2,
    "output_layer": 2 * 3 * 11 * 6,
}
"""Forward operations of ``SMALL``'s decoder by hand."""
ENCODER = {
    "vision.patch_stem": 2 * 4 * 12 * 8,
    "vision.linear_qkv": 3 * 2 * 4 * 192,
    "vision.attention_scores": 3 * 2 * 16 * 8,
    "vision.attention_values": 3 * 2 * 16 * 8,
    "vision.linear_proj": 3 * 2 * 4 * 64,
    "vision.linear_fc1": 3 * 2 * 4 * 112,
    "vision.linear_fc2": 3 * 2 * 4 * 56,
    "connector.fc1": 2 * 4 * 48,
}


def backward_too(forward: dict[str, int]) -> dict[str, int]:
    """Backward costs twice forward, but pixels take no gradient."""
    return {name: n * (2 if name.endswith("patch_stem") else 3) for name, n in forward.items()}


def test_flops_of_early_fusion_by_hand() -> None:
    flops = step_flops(SMALL, WORK)
    forward = DECODER | {"patch_stem": 2 * 4 * 12 * 6}
    assert flops.forward == sum(forward.values())
    assert flops.by_term == backward_too(forward)
    assert flops.total == sum(flops.by_term.values())


def test_flops_of_late_fusion_by_hand() -> None:
    assert step_flops(LATE, WORK).by_term == backward_too(DECODER | ENCODER)


def test_flops_of_experts_and_windows_by_hand() -> None:
    # Five rows are text, two visual; one of three encoder layers sees whole views; four patches become one token.
    attention = 2 * (16 + 2 * 10) * 8
    visual = {f"visual.{name}": n * 2 // 7 for name, n in DECODER.items() if name.startswith("linear")}
    text = {name: n * 5 // 7 if name.startswith("linear") else n for name, n in DECODER.items()}
    encoder = ENCODER | {
        "vision.attention_scores": attention,
        "vision.attention_values": attention,
        "vision.linear_fc1": 3 * 2 * 4 * 56,
        "connector.fc1": 2 * 1 * 32 * 6,
        "connector.fc2": 2 * 1 * 36,
    }
    assert step_flops(NAVIL_LIKE, WORK).by_term == backward_too(text | visual | encoder)


def test_flops_of_sparse_experts_by_hand() -> None:
    """Six of seven positions are no padding, and each goes through two experts; the router scores all seven."""
    forward = {name: n * 3 // 2 for name, n in DECODER.items() if name != "output_layer"} | {
        "linear_fc1": 2 * 7 * 60,
        "linear_fc2": 2 * 7 * 30,
        "router": 2 * 2 * 7 * 4 * 6,
        "experts.linear_fc1": 2 * 2 * 2 * 6 * 6 * 6,
        "experts.linear_fc2": 2 * 2 * 2 * 6 * 3 * 6,
        "output_layer": DECODER["output_layer"],
        "patch_stem": 2 * 4 * 12 * 6,
    }
    flops = step_flops(SPARSE, WORK)
    assert flops.by_term == backward_too(forward)
    assert flops.forward == sum(forward.values())


def test_one_expert_a_token_costs_as_much_as_a_dense_mlp_and_its_router() -> None:
    sparse, work = replace(SMALL, sparse=SparseConfig(experts=8)), replace(WORK, filled_tokens=WORK.tokens)
    flops = step_flops(sparse, work)
    assert flops.total - flops.by_term["router"] == step_flops(SMALL, work).total
    assert six_nd(sparse, 1000) == six_nd(SMALL, 1000)
    two = replace(SMALL, sparse=SparseConfig(experts=8, top_k=2))
    assert six_nd(two, 1000) - six_nd(SMALL, 1000) == 6 * 1000 * parameters(SMALL).by_part["ffn"]
    assert six_nd(sparse_early_fusion("0.275b"), 1000) == six_nd(early_fusion("0.275b"), 1000)


def test_experts_cost_no_operations() -> None:
    """Each token takes one of two: as many operations as a dense model."""
    for experts in ("ffn", "all"):
        assert step_flops(replace(SMALL, modality_experts=experts), WORK).total == step_flops(SMALL, WORK).total


ALL = set(DECODER | ENCODER) - {"connector.fc1"} | {f"visual.{n}" for n in DECODER if n.startswith("linear")}
LAYER = {name for name in ALL if not name.startswith("vision.") and name != "output_layer"}
VISION = {name for name in ALL if name.startswith("vision.")}


@pytest.mark.parametrize(
    ("count", "doubled"),
    [
        ("attended_pairs", {"attention_scores", "attention_values"}),
        ("logit_tokens", {"output_layer"}),
        ("patches", {n for n in VISION if "attention" not in n} | {"connector.fc1", "connector.fc2"}),
        ("view_pairs", set()),
        ("visual_tokens", {n for n in LAYER if n.startswith("visual")}),
    ],
)
def test_flops_grow_with_what_each_term_depends_on(count: str, doubled: set[str]) -> None:
    base = step_flops(NAVIL_LIKE, WORK).by_term
    more = step_flops(NAVIL_LIKE, replace(WORK, **{count: 2 * asdict(WORK)[count]})).by_term
    assert {name for name in base if more[name] == 2 * base[name]} == doubled


FROZEN = RatesConfig(**{field.name: 0.0 for field in fields(RatesConfig)})
TEXT = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")


def factors(model: ModelConfig, rates: RatesConfig) -> dict[str, float]:
    """Operations of each term in units of its forward pass: 1 forward only, 2 one gradient, 3 both."""
    full, part = step_flops(model, WORK).by_term, step_flops(model, WORK, rates).by_term
    return {name: part[name] * (2 if name.endswith("patch_stem") else 3) / n for name, n in full.items()}


def test_nothing_trained_has_no_backward() -> None:
    assert step_flops(NAVIL_LIKE, WORK, FROZEN).total == step_flops(NAVIL_LIKE, WORK).forward
    assert set(factors(NAVIL_LIKE, FROZEN).values()) == {1.0}


def test_stages_of_navil_save_the_gradients_of_frozen_weights() -> None:
    first = replace(RatesConfig(), attention=0, ffn=0, norms=0, embeddings=0, output=0)
    found = factors(NAVIL_LIKE, first)
    assert {name for name, factor in found.items() if factor == 2} == {*TEXT, "output_layer", "vision.patch_stem"}
    assert {factor for name, factor in found.items() if name not in (*TEXT, "output_layer", "vision.patch_stem")} == {3}
    second = factors(NAVIL_LIKE, replace(first, attention=1))
    assert {name for name in TEXT if second[name] == 3} == {"linear_qkv", "linear_proj"}


def test_frozen_encoder_below_a_trained_connector_has_no_backward() -> None:
    found = factors(NAVIL_LIKE, replace(RatesConfig(), vision=0, embeddings=0, special_embeddings=0))
    assert {name for name, factor in found.items() if factor == 1} == VISION
    assert found["connector.fc1"] == 2  # the gradient of its own weight alone
    assert found["connector.fc2"] == found["linear_qkv"] == 3


def test_only_what_stands_above_the_first_trained_weight_has_a_gradient() -> None:
    found = factors(SMALL, replace(FROZEN, output=1))
    assert {name: factor for name, factor in found.items() if factor > 1} == {"output_layer": 2}
    # The MLP of the first of two layers needs the gradient of its own weights alone.
    found = factors(SMALL, replace(FROZEN, ffn=1))
    assert found == {
        "patch_stem": 1, "linear_qkv": 1.5, "attention_scores": 2, "attention_values": 2, "linear_proj": 1.5,
        "linear_fc1": 2.5, "linear_fc2": 3, "output_layer": 2,
    }  # fmt: skip
    # Tied, the table below everything trains.
    tied = replace(SMALL, tie_embeddings=True)
    assert set(factors(tied, replace(FROZEN, embeddings=1)).values()) == {1, 2, 3}
    assert factors(tied, replace(FROZEN, embeddings=1))["output_layer"] == 3


def test_twins_of_a_layer_do_not_share_gradients_before_they_meet() -> None:
    """Only the visual MLP trains: in the first layer the text's second matrix has no gradient to pass on."""
    found = factors(replace(SMALL, layers=1, modality_experts="ffn"), replace(FROZEN, visual_ffn=1))
    assert {name: found[name] for name in found if "fc" in name} == {
        "linear_fc1": 1, "linear_fc2": 1, "visual.linear_fc1": 2, "visual.linear_fc2": 3,
    }  # fmt: skip


def test_router_and_experts_of_a_layer_do_not_share_gradients() -> None:
    """Scores weigh answers: a router that trains alone asks for no gradient of the experts beside it."""
    lone = replace(SMALL, layers=1, sparse=SparseConfig(experts=4))
    names = ("router", "experts.linear_fc1", "experts.linear_fc2", "output_layer")
    found = factors(lone, replace(FROZEN, router=1))
    assert [found[name] for name in names] == [2, 1, 1, 2]
    assert found["linear_qkv"] == found["attention_scores"] == 1
    found = factors(lone, replace(FROZEN, ffn=1))
    assert [found[name] for name in names] == [1, 2, 3, 2]
    found = factors(lone, replace(RatesConfig(), ffn=0, router=0))
    assert [found[name] for name in names] == [2, 2, 2, 3]
    # Of two layers, the second has the gradients of its rows.
    found = factors(replace(lone, layers=2), replace(FROZEN, router=1))
    assert [found[name] for name in names] == [2.5, 1.5, 1.5, 2]


def test_exact_count_nears_six_nd_where_attention_is_small() -> None:
    model = early_fusion("3.354b")
    tokens = 1 << 20
    exact = step_flops(model, Work(tokens, attended_pairs=0, logit_tokens=tokens)).total
    # 6 N D also charges the input embedding, which is a look-up and no product.
    assert exact == six_nd(model, tokens, 0) - 6 * model.vocabulary * model.width * tokens


def test_estimate_of_late_fusion_is_the_papers() -> None:
    """C = 6 (Nv Dv + N D), with Dv = 0.544 D where nothing is known of the images."""
    model = late_fusion("1.748b")
    encoder = parameters(model).vision_matrices
    decoder = parameters(model).paper - encoder
    assert six_nd(model, 1000, 700) == 6 * (encoder * 700 + decoder * 1000)
    assert six_nd(model, 1000) == six_nd(model, 1000, 544) == 6 * (encoder * 544 + decoder * 1000)
    assert six_nd(early_fusion("0.275b"), 1000) == 6 * parameters(early_fusion("0.275b")).paper * 1000
    # 2 x 2 patches for every image token of NaViL.
    navil_2b = navil("2b")
    assert six_nd(navil_2b, 1000) == six_nd(navil_2b, 1000, 4 * round(1000 * IMAGE_SHARE))
    exact = step_flops(model, Work(1 << 20, 0, 1 << 20, patches=1 << 19)).total
    left_out = 50_432 * 2048 - 1024 * (2048 / 2 + 588 / 3)  # the look-up is charged, stem and connector are not
    assert exact == pytest.approx(six_nd(model, 1 << 20, 1 << 19) - 6 * left_out * (1 << 20), rel=1e-4)


def test_tying_does_not_save_operations() -> None:
    assert step_flops(SMALL, WORK) == step_flops(replace(SMALL, tie_embeddings=True), WORK)
