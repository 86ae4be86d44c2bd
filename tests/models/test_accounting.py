"""Counts: P1's sizes to three decimals, hand-counted small models, pairs against brute force."""

import random
from dataclasses import replace
from itertools import accumulate, pairwise

import pytest

from megatron_nmm.config import ModelConfig, VisionConfig
from megatron_nmm.config.presets import EARLY_FUSION, early_fusion
from megatron_nmm.config.schema import ImageMask
from megatron_nmm.errors import ConfigError, DataError
from megatron_nmm.models.accounting import TERMS, attended_pairs, parameters, six_nd, step_flops

SMALL = ModelConfig(
    layers=2, width=6, heads=3, query_groups=1, ffn=5, vocabulary=11, vision=VisionConfig(patch=2, channels=3)
)


@pytest.mark.parametrize("label", EARLY_FUSION)
def test_paper_sizes_to_three_decimals(label: str) -> None:
    assert f"{parameters(early_fusion(label)).paper / 1e9:.3f}b" == label


def test_paper_sizes_are_the_seven_of_the_paper() -> None:
    counted = [round(parameters(early_fusion(label)).paper / 1e9, 3) for label in EARLY_FUSION]
    assert counted == [0.275, 0.464, 0.932, 1.627, 2.280, 3.354, 8.129]


def test_paper_count_equals_its_closed_form() -> None:
    model = early_fusion("1.627b")
    w, h = 2208, 5888
    assert parameters(model).paper == 24 * (4 * w * w + 3 * w * h) + 2 * 50_432 * w


def test_small_model_counted_by_hand() -> None:
    # head width 2: qkv 6 x (3 + 2) x 2 = 60, proj 36, fc1 6 x 10 = 60, fc2 5 x 6 = 30
    counted = parameters(SMALL)
    assert counted.decoder == 2 * (60 + 36 + 60 + 30)
    assert counted.embeddings == 2 * 11 * 6
    assert counted.norms == 2 * (6 + 6 + 2 + 2) + 6
    assert counted.vision == 3 * 2 * 2 * 6 + 6
    assert counted.paper == 372 + 132
    assert counted.total == 372 + 132 + 38 + 78


def test_tied_embeddings_count_once_and_queries_without_norm_not_at_all() -> None:
    counted = parameters(replace(SMALL, tie_embeddings=True, qk_norm=False))
    assert counted.embeddings == 11 * 6
    assert counted.norms == 2 * (6 + 6) + 6


def test_vision_encoder_is_refused() -> None:
    late = replace(SMALL, vision=VisionConfig(depth=2))
    with pytest.raises(ConfigError, match=r"model\.vision\.depth 2 has no parameter table"):
        parameters(late)
    with pytest.raises(ConfigError, match=r"model\.vision\.depth 2"):
        step_flops(late, 1, 1, 0, 1)


def test_flops_of_a_small_step_by_hand() -> None:
    flops = step_flops(SMALL, tokens=7, attended_pairs=20, patches=4, logit_tokens=3)
    forward = {
        "linear_qkv": 2 * 2 * 7 * 60,
        "linear_proj": 2 * 2 * 7 * 36,
        "linear_fc1": 2 * 2 * 7 * 60,
        "linear_fc2": 2 * 2 * 7 * 30,
        "attention_scores": 2 * 2 * 20 * 3 * 2,
        "attention_values": 2 * 2 * 20 * 3 * 2,
        "output_layer": 2 * 3 * 11 * 6,
        "patch_stem": 2 * 4 * 12 * 6,
    }
    assert flops.forward == sum(forward.values())
    # Backward costs twice forward, but pixels take no gradient.
    assert flops.by_term == {name: n * (2 if name == "patch_stem" else 3) for name, n in forward.items()}
    assert flops.total == sum(flops.by_term.values())
    assert flops.by_term.keys() == TERMS.keys()


def test_flops_grow_with_what_each_term_depends_on() -> None:
    base = step_flops(SMALL, 7, 20, 4, 3).by_term
    changed = {
        "tokens": step_flops(SMALL, 14, 20, 4, 3).by_term,
        "pairs": step_flops(SMALL, 7, 40, 4, 3).by_term,
        "patches": step_flops(SMALL, 7, 20, 8, 3).by_term,
        "logits": step_flops(SMALL, 7, 20, 4, 6).by_term,
    }
    doubled = {what: {name for name in base if terms[name] == 2 * base[name]} for what, terms in changed.items()}
    assert doubled == {
        "tokens": {"linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"},
        "pairs": {"attention_scores", "attention_values"},
        "patches": {"patch_stem"},
        "logits": {"output_layer"},
    }


def test_exact_count_nears_six_nd_where_attention_is_small() -> None:
    model = early_fusion("3.354b")
    tokens = 1 << 20
    exact = step_flops(model, tokens, attended_pairs=0, patches=0, logit_tokens=tokens).total
    # 6 N D also charges the input embedding, which is a look-up and no product.
    assert exact == six_nd(model, tokens) - 6 * model.vocabulary * model.width * tokens


def test_tying_does_not_save_operations() -> None:
    assert step_flops(SMALL, 7, 20, 4, 3) == step_flops(replace(SMALL, tie_embeddings=True), 7, 20, 4, 3)


def brute_force(lengths: list[int], blocks: list[tuple[int, int]], mask: ImageMask) -> int:
    """The mask, entry by entry."""
    ends = list(accumulate(lengths))
    document = [sum(position >= end for end in ends) for position in range(sum(lengths))]
    image = [next((n for n, (start, end) in enumerate(blocks) if start <= p < end), -1) for p in range(sum(lengths))]
    return sum(
        document[query] == document[key]
        and (key <= query or (mask == "bidirectional" and image[query] == image[key] >= 0))
        for query in range(sum(lengths))
        for key in range(sum(lengths))
    )


def random_row(draw: random.Random) -> tuple[list[int], list[tuple[int, int]]]:
    """Document lengths and image blocks inside them, neighbours and empty documents included."""
    lengths = [draw.randrange(0, 9) for _ in range(draw.randrange(0, 5))]
    blocks, start = [], 0
    for length in lengths:
        cuts = sorted(draw.sample(range(length + 1), k=min(length + 1, draw.randrange(0, 5))))
        blocks += [(start + a, start + b) for a, b in pairwise(cuts) if draw.random() < 0.7]
        start += length
    draw.shuffle(blocks)
    return lengths, blocks


def test_attended_pairs_equal_brute_force() -> None:
    draw = random.Random(0)
    for _ in range(200):
        lengths, blocks = random_row(draw)
        for mask in ("causal", "bidirectional"):
            assert attended_pairs(lengths, blocks, mask) == brute_force(lengths, blocks, mask), (lengths, blocks, mask)


@pytest.mark.parametrize("blocks", [[(3, 6)], [(0, 2), (1, 3)], [(2, 2)], [(3, 2)], [(-1, 2)], [(8, 9)], [(7, 9)]])
def test_block_without_a_meaning_is_refused(blocks: list[tuple[int, int]]) -> None:
    with pytest.raises(DataError, match="image block"):
        attended_pairs([4, 4], blocks, "bidirectional")
