"""Rules of the model family: encoder, stages, heads with a width of their own, freezing; wording and an oracle."""

import random
import re
from collections.abc import Sequence
from dataclasses import fields

import pytest

from megatron_nmm.config import RunConfig
from megatron_nmm.config.check import check
from megatron_nmm.config.overrides import apply
from megatron_nmm.config.rules_freezing import present_parts
from megatron_nmm.config.schema import RatesConfig
from megatron_nmm.config.schema_model import ModelConfig, SparseConfig
from tests.config.test_rules import kinds, offers

RUN = RunConfig()
LATE = ["model.vision.depth=24"]
NAVIL = [*LATE, "model.vision.connector=pixel_shuffle"]
TABLE = [*LATE, "model.vision.positions=table", "model.vision.table_side=32"]
ALL_FROZEN = [f"optim.rates.{part.name}=0" for part in fields(RatesConfig)]


def faults(changes: Sequence[str], world_size: int = 1) -> list[str]:
    """The faults of the default run with some changes, as text."""
    return [str(fault) for fault in check(apply(RUN, changes), world_size)]


@pytest.mark.parametrize(
    ("changes", "world_size", "told"),
    [
        (
            [*LATE, "model.vision.heads=7"],
            1,
            "model.vision.width 384 is not divisible by model.vision.heads 7; use model.vision.heads 6 or 8, "
            "or model.vision.width 364 or 392",
        ),
        (
            [*LATE, "model.vision.width=396"],
            1,
            "the encoder's head width 66 (model.vision.width 396 / model.vision.heads 6) is not divisible by 4, and "
            "RoPE turns pairs by row and by column; use model.vision.heads 3 or 9, or model.vision.width 384 or 408",
        ),
        (
            [*LATE, "model.vision.width=390"],
            1,
            "the encoder's head width 65 (model.vision.width 390 / model.vision.heads 6) is not divisible by 4, and "
            "RoPE turns pairs by row and by column; use model.vision.width 384 or 408",
        ),
        (
            [*LATE, "model.vision.full_layers=[7, 24, 31]"],
            1,
            "model.vision.full_layers names layer 24, and model.vision.depth 24 has layers 0 to 23; "
            "use model.vision.full_layers [7], or model.vision.depth 32",
        ),
        (
            [*NAVIL, "model.vision.window=7"],
            1,
            "model.vision.window 7 is not a multiple of 2, the side in patches of one token of the connector "
            "pixel_shuffle; use model.vision.window 6 or 8",
        ),
        (
            [*LATE, "model.vision.positions=table"],
            1,
            "model.vision.positions table has no rows: model.vision.table_side is 0; use model.vision.table_side 16, "
            "or model.vision.positions rotary",
        ),
        (
            [*LATE, "model.vision.table_side=32"],
            1,
            "model.vision.table_side 32 is of a table, and model.vision.positions is rotary; "
            "use model.vision.positions table, or model.vision.table_side 0",
        ),
        (
            [*LATE, "model.vision.class_token=true"],
            1,
            "model.vision.class_token true has no place in an image, and model.vision.positions rotary needs one; "
            "use model.vision.positions table, or model.vision.class_token false",
        ),
        (
            [*TABLE, "model.vision.class_token=true", "model.vision.window=8"],
            1,
            "model.vision.class_token true attends with whole views, and model.vision.window 8 cuts them; "
            "use model.vision.window 0, or model.vision.class_token false",
        ),
        (
            [*TABLE, "model.vision.heads=7"],
            1,
            "model.vision.width 384 is not divisible by model.vision.heads 7; use model.vision.heads 6 or 8, "
            "or model.vision.width 378 or 385",
        ),
        (
            [*NAVIL, "data.image_size=238"],
            1,
            "data.image_size 238 is not a multiple of model.vision.patch 14 x 2, the side of one token of the "
            "connector pixel_shuffle; use data.image_size 224 or 252",
        ),
        (
            [*NAVIL, "data.sequence_length=63"],
            1,
            "data.image_size 224 makes 8 x 8 = 64 tokens, more than data.sequence_length 63; "
            "use data.image_size 196, or data.sequence_length 64",
        ),
        (
            [*NAVIL, "data.image_rule=native", "data.augment=false", "data.sequence_length=64"],
            1,
            "data.min_patches 256 makes at least 64 tokens of an image, and with its line ends none fits into "
            "data.sequence_length 64; use data.min_patches 128, or data.sequence_length 128",
        ),
        (
            [*LATE, "data.image_rule=native", "data.augment=false", "data.sequence_length=256"],
            1,
            "data.min_patches 256 makes at least 256 tokens of an image, and with its line ends none fits into "
            "data.sequence_length 256; use data.min_patches 128, or data.sequence_length 512",
        ),
        (
            [*LATE, "parallel.tensor=4", "parallel.vision=tensor"],
            4,
            "model.vision.heads 6 is not divisible by parallel.tensor 4, and parallel.vision tensor splits it; "
            "use parallel.vision auto or data",
        ),
        (
            [*LATE, "model.vision.ffn=1023", "parallel.tensor=2", "parallel.vision=tensor"],
            2,
            "model.vision.ffn 1023 is not divisible by parallel.tensor 2, and parallel.vision tensor splits it; "
            "use parallel.vision auto or data",
        ),
        (["model.head_dim=63"], 1, "model.head_dim 63 is odd, and RoPE turns pairs; use model.head_dim 62 or 64"),
        (["model.head_dim=1"], 1, "model.head_dim 1 is odd, and RoPE turns pairs; use model.head_dim 2"),
        (
            ["parallel.stage_layers=[12, 12]"],
            1,
            "parallel.stage_layers [12, 12] is for 2 pipeline stages, and parallel.pipeline is 1; "
            "use parallel.stage_layers [], or parallel.pipeline 2",
        ),
        (
            ["parallel.stage_layers=[11, 12]", "parallel.pipeline=2"],
            2,
            "parallel.stage_layers [11, 12] holds 23 layers, and model.layers is 24; "
            "use parallel.stage_layers [], or model.layers 23",
        ),
        (
            ["parallel.stage_layers=[12, 0, 12]", "parallel.pipeline=3"],
            3,
            "parallel.stage_layers [12, 0, 12] leaves a stage between the first and the last one without a layer; "
            "use parallel.stage_layers []",
        ),
        (
            ALL_FROZEN,
            1,
            "optim.rates is 0 for every part of this model (vision, attention, ffn, norms, embeddings, output): "
            "nothing would be trained; use a value above 0 for optim.rates.vision, optim.rates.attention, "
            "optim.rates.ffn, optim.rates.norms, optim.rates.embeddings or optim.rates.output",
        ),
    ],
)
def test_relation_is_told_alone(changes: list[str], world_size: int, told: str) -> None:
    assert faults(changes, world_size) == [told]


@pytest.mark.parametrize(
    ("changes", "world_size"),
    [
        (LATE, 1),
        ([*LATE, "parallel.tensor=4"], 4),  # heads that do not divide: the images are spread, not the matrices
        ([*LATE, "parallel.tensor=4", "parallel.vision=data"], 4),
        ([*LATE, "parallel.tensor=2", "parallel.vision=tensor", "parallel.sequence=true"], 2),
        ([*NAVIL, "model.vision.window=8", "model.vision.full_layers=[7, 15, 23]"], 1),
        ([*TABLE, "model.vision.class_token=true", "model.vision.width=390"], 1),  # no pairs to turn
        (["model.vision.class_token=true", "model.vision.positions=table"], 1),  # early fusion: unread
        (["model.vision.heads=7", "model.vision.window=3", "model.vision.full_layers=[9]"], 1),  # early fusion: unread
        (["model.width=1000", "model.head_dim=64"], 1),
        (["model.modality_experts=all", "model.special_embeddings=true"], 1),  # no line ends in squares: unused rows
        (["parallel.pipeline=5"], 5),
        (["parallel.pipeline=24"], 24),
        (["parallel.pipeline=3", "parallel.stage_layers=[0, 24, 0]"], 3),
        (["parallel.stage_layers=[24]"], 1),
        ([*ALL_FROZEN, "optim.rates.norms=0.1"], 1),
        ([*ALL_FROZEN, "model.special_embeddings=true", "optim.rates.special_embeddings=1"], 1),
    ],
)
def test_legal(changes: list[str], world_size: int) -> None:
    assert faults([*changes, f"data.global_batch={world_size}"], world_size) == []


@pytest.mark.parametrize(
    "changes",
    [
        ["optim.rates.special_embeddings=1"],
        ["optim.rates.connector=1"],
        ["optim.rates.visual_ffn=1"],
        ["model.modality_experts=ffn", "optim.rates.visual_attention=1"],
        ["model.tie_embeddings=true", "optim.rates.output=1"],
    ],
)
def test_a_rate_of_a_part_that_does_not_exist_trains_nothing(changes: list[str]) -> None:
    [fault] = faults([*ALL_FROZEN, *changes])
    assert fault.startswith("optim.rates is 0 for every part of this model (vision")


def test_parts_of_the_largest_model_are_all_of_them() -> None:
    model = apply(RUN, [*NAVIL, "model.modality_experts=all", "model.special_embeddings=true"]).model
    everything = tuple(part.name for part in fields(RatesConfig))
    assert present_parts(model) == tuple(part for part in everything if part != "router")
    assert "router" in present_parts(ModelConfig(sparse=SparseConfig(experts=8)))
    assert present_parts(ModelConfig(tie_embeddings=True)) == ("vision", "attention", "ffn", "norms", "embeddings")


CHOICES: dict[str, list[object]] = {
    "model.vision.depth": [0, 2],
    "model.vision.width": [12, 16, 24],
    "model.vision.heads": [1, 2, 3, 4],
    "model.vision.ffn": [6, 8, 9],
    "model.vision.window": [0, 2, 3],
    "model.vision.full_layers": ["[]", "[1]", "[0, 2]"],
    "model.vision.connector": ["linear", "pixel_shuffle"],
    "model.vision.patch": [2],
    "model.layers": [1, 2, 3],
    "data.image_size": [4, 6],
    "parallel.tensor": [1, 2],
    "parallel.vision": ["auto", "tensor", "data"],
    "parallel.pipeline": [1, 2],
    "parallel.stage_layers": ["[]", "[2]", "[0, 2]", "[1, 2]"],
    "optim.rates.connector": [0, 1],
}
HELD = ["model.width=16", "model.heads=4", "model.ffn=8", "model.vocabulary=16", "data.sequence_length=16",
        *(change for change in ALL_FROZEN if "connector" not in change)]  # fmt: skip


def legal(v: dict[str, object]) -> bool:
    """Whether a run may start, written anew and without any of the code under test."""
    depth, width, heads, ffn = (v[f"model.vision.{key}"] for key in ("depth", "width", "heads", "ffn"))
    layers, stages, tensor = v["model.layers"], v["parallel.pipeline"], v["parallel.tensor"]
    given = [int(n) for n in str(v["parallel.stage_layers"]).strip("[]").split(",") if n.strip()]
    encoder = width % (4 * heads) == 0  # type: ignore[operator]
    if v["model.vision.connector"] == "pixel_shuffle":
        encoder &= v["model.vision.window"] != 3 and v["data.image_size"] == 4
    encoder &= v["model.vision.full_layers"] != "[0, 2]"
    encoder &= v["parallel.vision"] != "tensor" or (heads % tensor == 0 and ffn % tensor == 0)  # type: ignore[operator]
    # Everything but the connector is frozen, and early fusion has none.
    return bool(
        depth
        and encoder
        and v["optim.rates.connector"]
        and (len(given) == stages and sum(given) == layers if given else layers >= stages)  # type: ignore[operator]
    )


def near_legal(draw: random.Random) -> dict[str, object]:
    """A random model; most draws take several values from a legal one, or legal ones would be rare."""
    values = {key: draw.choice(choices) for key, choices in CHOICES.items()}
    if draw.random() < 0.7:
        good = {
            "model.vision.depth": 2, "model.vision.width": 16, "model.vision.heads": 2, "model.vision.ffn": 8,
            "model.vision.full_layers": "[1]", "model.layers": 2, "parallel.stage_layers": "[]",
            "optim.rates.connector": 1,
        }  # fmt: skip
        values |= {key: good[key] for key in draw.sample(sorted(good), k=6)}
    return values


def changed(run: RunConfig, values: dict[str, object]) -> tuple[RunConfig, int]:
    """The run with these values and the processes it needs."""
    run = apply(run, [f"{key}={value}" for key, value in values.items()])
    return run, run.parallel.tensor * run.parallel.pipeline


def test_no_fault_exactly_when_the_oracle_says_legal() -> None:
    draw = random.Random(3)
    held = apply(RUN, HELD)
    seen = {True: 0, False: 0}
    for _ in range(1000):
        values = near_legal(draw)
        expected = legal(values)
        seen[expected] += 1
        assert (check(*changed(held, values)) == ()) == expected, values
    assert min(seen.values()) > 100


def test_every_value_a_remedy_offers_cures_its_fault() -> None:
    draw = random.Random(5)
    held = apply(RUN, HELD)
    tried: set[str] = set()
    for _ in range(300):
        values = near_legal(draw)
        for fault in check(*changed(held, values)):
            kind = re.sub(r"[0-9]+", "#", fault.fact)
            for key, value in offers(fault.remedy) if fault.key != "optim.rates" else []:
                assert kind not in kinds(*changed(held, values | {key: value})), (fault, key, value)
                tried.add(f"{fault.key} by {key}")
    assert len(tried) >= 12, tried
