"""Rows of weight maps: known numbers one way, every kind there and back, every family on the shapes of its model."""

import pytest
import torch

from megatron_nmm.checkpoint.families import LANGUAGE, navil_vision
from megatron_nmm.checkpoint.rows import (
    Batched,
    Chained,
    Filter,
    FusedQKV,
    GroupedQKV,
    Padded,
    PerExpert,
    Row,
    Same,
    Stacked,
)
from megatron_nmm.config import ModelConfig, VisionConfig
from megatron_nmm.errors import CheckpointError

ROWS: dict[str, tuple[Row, tuple[int, ...], list[tuple[int, ...]]]] = {
    "same": (Same("a", "b"), (3, 2), [(3, 2)]),
    "padded": (Padded("a", "b", 5), (8, 2), [(5, 2)]),
    "stacked": (Stacked("a", ("gate", "up")), (6, 2), [(3, 2), (3, 2)]),
    "grouped": (GroupedQKV("a", ("q", "k", "v"), 2, 4), (2 * (3 + 2) * 4, 5), [(24, 5), (8, 5), (8, 5)]),
    "per expert": (PerExpert("a", tuple("abcdef"), 3), (3, 4, 5), [(2, 5)] * 6),
    "fused": (FusedQKV("a", "qkv", 3), (3 * 3 * 4, 5), [(36, 5)]),
    "fused bias": (FusedQKV("a", "qkv", 3), (36,), [(36,)]),
    "batched": (Batched("a", "b", 2), (5,), [(1, 1, 5)]),
    "batched table": (Batched("a", "b", 1), (4, 5), [(1, 4, 5)]),
    "filter": (Filter("a", "conv", 3, 2), (5, 12), [(5, 3, 2, 2)]),
}
"""Row, shape of ours, shapes of theirs."""


@pytest.mark.parametrize("kind", ROWS)
def test_there_and_back(kind: str) -> None:
    row, shape, theirs = ROWS[kind]
    ours = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    parts = row.cut(ours)
    assert [tuple(part.shape) for part in parts] == theirs and len(row.theirs) == len(theirs)
    again = row.join(parts)
    assert torch.equal(again, ours[: len(again)]) and len(again) == (5 if kind == "padded" else len(ours))
    on_meta = row.cut(torch.empty(shape, device="meta"))
    assert [tuple(part.shape) for part in on_meta] == theirs


def test_each_group_has_its_queries_then_its_key_then_its_value() -> None:
    query, key, value = (torch.tensor(rows)[:, None] for rows in ([0, 1, 2, 3], [10, 11], [20, 21]))
    joined = GroupedQKV("a", ("q", "k", "v"), groups=2, head_width=1).join([query, key, value])
    assert joined[:, 0].tolist() == [0, 1, 10, 20, 2, 3, 11, 21]


def test_blocks_of_queries_keys_and_values_become_heads() -> None:
    fused = torch.tensor([0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23])[:, None]
    joined = FusedQKV("a", "qkv", heads=2).join([fused])
    assert joined[:, 0].tolist() == [0, 1, 10, 11, 20, 21, 2, 3, 12, 13, 22, 23]


def test_experts_stand_one_behind_the_other() -> None:
    gate_up = [torch.full((1, 2), float(number)) for number in range(4)]
    joined = PerExpert("a", ("0.gate", "0.up", "1.gate", "1.up"), experts=2).join(gate_up)
    assert joined[:, :, 0].tolist() == [[0, 1], [2, 3]]


def test_a_chain_is_a_product_and_its_second_link_comes_back() -> None:
    row = Chained("visual", "text", "wo", "wo_ve")
    first, second = torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    product = row.join([first, second])
    assert torch.equal(product, second @ first)
    assert [part.tolist() for part in row.cut(product, first)] == [first.tolist(), second.tolist()]
    with pytest.raises(CheckpointError, match="text cannot be inverted"):
        row.cut(product, torch.ones(2, 2))


def test_a_filter_is_channels_then_rows_then_columns() -> None:
    kernel = torch.arange(12).reshape(1, 3, 2, 2)
    assert Filter("a", "conv", 3, 2).join([kernel])[0].tolist() == list(range(12))


@pytest.mark.parametrize("kind", LANGUAGE)
def test_a_family_uses_no_name_twice(kind: str) -> None:
    model = ModelConfig(layers=3, width=32, heads=4, query_groups=2, qk_norm=kind == "qwen3")
    rows = LANGUAGE[kind](model, 100)
    _require_distinct(rows)
    tied = LANGUAGE[kind](ModelConfig(layers=3, tie_embeddings=True), 100)
    assert all(row.ours != "output_layer.weight" for row in tied)


def test_navil_gives_its_connector_to_a_decoder_of_its_width_alone() -> None:
    vision = VisionConfig(depth=2, width=16, heads=2, connector="pixel_shuffle")
    model = ModelConfig(width=32, vision=vision, special_embeddings=True)
    whole = {"model_type": "navil_chat", "llm_config": {"hidden_size": 32}}
    rows = navil_vision.rows(model, whole)
    _require_distinct(rows)
    assert len(rows) == 2 + 2 * 11 + 6 + 1
    assert all(name.startswith(("vision_model.", "mlp1.", "special_token")) for row in rows for name in row.theirs)
    for other in ({**whole, "llm_config": {"hidden_size": 64}}, {"model_type": "navil_vit"}):
        assert len(navil_vision.rows(model, other)) == 2 + 2 * 11
    assert navil_vision.rows(model, {"model_type": "navil_vit"})[0].theirs == ("embeddings.patch_embedding.weight",)


def _require_distinct(rows: tuple[Row, ...]) -> None:
    for names in ([row.ours for row in rows], [name for row in rows for name in row.theirs]):
        assert len(names) == len(set(names))
