"""Rules: the wording of each relation, agreement with an independent oracle, and remedies that cure."""

import random
import re
from collections.abc import Sequence

import pytest

from megatron_nmm.config import RunConfig
from megatron_nmm.config.check import check
from megatron_nmm.config.overrides import apply

RUN = RunConfig()
NATIVE = ["data.image_rule=native", "data.augment=false"]


def faults(changes: Sequence[str], world_size: int = 1) -> list[str]:
    """The faults of the default run with some changes, as text."""
    return [str(fault) for fault in check(apply(RUN, changes), world_size)]


@pytest.mark.parametrize(
    ("changes", "world_size", "told"),
    [
        (
            ["parallel.tensor=3", "model.vocabulary=50433", "model.ffn=2304"],
            3,
            "model.heads 16 is not divisible by parallel.tensor 3; use parallel.tensor 1",
        ),
        (
            ["model.width=960", "model.ffn=96", "model.vocabulary=48", "parallel.tensor=3"],
            3,
            "model.heads 16 is not divisible by parallel.tensor 3; use parallel.tensor 1, 2, 4, 8 or 16, "
            "or model.heads 15 or 24",
        ),
        (
            ["model.query_groups=4", "parallel.tensor=8"],
            8,
            "model.query_groups 4 is not divisible by parallel.tensor 8; use parallel.tensor 1, 2 or 4, "
            "or model.query_groups 8",
        ),
        (
            ["model.ffn=2300", "parallel.tensor=8"],
            8,
            "model.ffn 2300 is not divisible by parallel.tensor 8; use parallel.tensor 1, 2 or 4, "
            "or model.ffn 2296 or 2304",
        ),
        (
            ["model.vocabulary=50257", "parallel.tensor=2"],
            2,
            "model.vocabulary 50257 is not divisible by parallel.tensor 2; use parallel.tensor 1, "
            "or model.vocabulary 50258",
        ),
        (
            ["parallel.pipeline=25"],
            25,
            "model.layers 24 is fewer than parallel.pipeline 25, and every stage needs a layer; "
            "use parallel.pipeline 24, or model.layers 25",
        ),
        (
            ["parallel.tensor=4", "data.global_batch=12"],
            6,
            "the world size 6 is not divisible by parallel.tensor 4 x parallel.pipeline 1 = 4 processes for one copy "
            "of the model; use a world size of 4 or 8, or parallel.tensor 1 or 2",
        ),
        (
            ["parallel.context=2", "parallel.pipeline=2", "data.global_batch=12"],
            6,
            "the world size 6 is not divisible by parallel.tensor 1 x parallel.context 2 x parallel.pipeline 2 = 4 "
            "processes for one copy of the model; use a world size of 4 or 8, or parallel.context 1, "
            "or parallel.pipeline 1 or 3",
        ),
        (
            ["parallel.context=3"],
            3,
            "data.sequence_length 1024 is not divisible by 2 x parallel.context 3 = 6 chunks of a row; use "
            "parallel.context 1, 2, 4, 8, 16 or 32, or data.sequence_length 1020 or 1026",
        ),
        (
            ["parallel.context=2", "data.sequence_length=1023"],
            2,
            "data.sequence_length 1023 is not divisible by 2 x parallel.context 2 = 4 chunks of a row; use "
            "parallel.context 1, or data.sequence_length 1020 or 1024",
        ),
        (
            ["parallel.context=2", "parallel.tensor=8", "parallel.sequence=true", "data.sequence_length=1028"],
            16,
            "data.microbatch 1 x data.sequence_length 1028 = 1028 tokens over parallel.context 2 are not divisible by "
            "parallel.tensor 8, as parallel.sequence needs; use data.sequence_length 1024 or 1040, or "
            "parallel.sequence false",
        ),
        (
            ["data.global_batch=7", "data.microbatch=2"],
            1,
            "data.global_batch 7 is not divisible by data.microbatch 2 x data parallel size 1 = 2; "
            "use data.global_batch 6 or 8, or data.microbatch 1 or 7",
        ),
        (
            ["data.global_batch=2"],
            8,
            "data.global_batch 2 is not divisible by data.microbatch 1 x data parallel size 8 = 8; "
            "use data.global_batch 8",
        ),
        (
            ["model.width=1000"],
            1,
            "model.width 1000 is not divisible by model.heads 16; use model.heads 10 or 20, or model.width 992 or 1024",
        ),
        (
            ["model.width=960", "model.heads=18", "model.query_groups=3"],
            1,
            "model.width 960 is not divisible by model.heads 18; use model.heads 15 or 24, or model.width 936 or 972",
        ),
        (
            ["model.width=400"],
            1,
            "the head width 25 (model.width 400 / model.heads 16) is odd, and RoPE turns pairs; "
            "use model.heads 10 or 20, or model.width 384 or 416",
        ),
        (
            ["model.query_groups=3"],
            1,
            "model.heads 16 is not divisible by model.query_groups 3; use model.query_groups 1, 2, 4, 8 or 16",
        ),
        (
            ["parallel.sequence=true"],
            1,
            "parallel.sequence true splits tokens over the tensor group, and parallel.tensor is 1; "
            "use parallel.tensor 2, 4, 8 or 16, or parallel.sequence false",
        ),
        (
            ["parallel.sequence=true", "parallel.tensor=4", "data.sequence_length=1022", "data.microbatch=1"],
            4,
            "data.microbatch 1 x data.sequence_length 1022 = 1022 tokens are not divisible by parallel.tensor 4, as "
            "parallel.sequence needs; use data.sequence_length 1020 or 1024, or parallel.sequence false",
        ),
        (
            ["parallel.overlap_weights=true"],
            2,
            "parallel.overlap_weights true gathers shards in the buckets that gradients are reduced in, and "
            "parallel.distributed_optimizer is false and parallel.overlap_gradients is false; use "
            "parallel.distributed_optimizer true with parallel.overlap_gradients true, or "
            "parallel.overlap_weights false",
        ),
        (
            ["parallel.overlap_weights=true", "parallel.distributed_optimizer=true"],
            2,
            "parallel.overlap_weights true gathers shards in the buckets that gradients are reduced in, and "
            "parallel.overlap_gradients is false; use parallel.overlap_gradients true, or "
            "parallel.overlap_weights false",
        ),
        (
            ["data.image_size=230"],
            1,
            "data.image_size 230 is not a multiple of model.vision.patch 14; use data.image_size 224 or 238",
        ),
        (
            ["data.image_size=10"],
            1,
            "data.image_size 10 is not a multiple of model.vision.patch 14; use data.image_size 14",
        ),
        (
            ["data.sequence_length=128"],
            1,
            "data.image_size 224 makes 16 x 16 = 256 tokens, more than data.sequence_length 128; "
            "use data.image_size 154, or data.sequence_length 256",
        ),
        (
            ["data.multi_scale=true"],
            1,
            "data.multi_scale true needs images of native size, and data.image_rule is square; "
            "use data.image_rule native, or data.multi_scale false",
        ),
        (
            [*NATIVE, "data.min_patches=400", "data.max_patches=300"],
            1,
            "data.min_patches 400 is more than data.max_patches 300; use data.min_patches 300",
        ),
        (
            [*NATIVE, "data.sequence_length=256"],
            1,
            "data.min_patches 256 makes at least 256 tokens of an image, and with its line ends none fits into "
            "data.sequence_length 256; use data.min_patches 128, or data.sequence_length 512",
        ),
        (
            ["data.image_rule=native"],
            1,
            "data.augment true cuts squares out of images, and data.image_rule native keeps their shape; "
            "use data.augment false, or data.image_rule square",
        ),
        (
            ["schedule.warmup=2000"],
            1,
            "schedule.warmup 2000 is more than steps 1000; use schedule.warmup 1000, or steps 2000",
        ),
        (
            ["optim.weight_decay=1"],
            1,
            "optim.weight_decay 1 with optim.decoupled true takes away the whole weight at every step; "
            "use optim.weight_decay with a value below 1, e.g. 0.0001",
        ),
        (["name=a/b"], 1, "name 'a/b' cannot label files; use a name of letters, digits, '-', '_' and '.'"),
        (["name="], 1, "name '' cannot label files; use a name of letters, digits, '-', '_' and '.'"),
        (["folder= "], 1, "folder ' ' names no place; use folder runs/run"),
        ([], 0, "the world size 0 is out of range; use a world size of at least 1"),
    ],
)
def test_relation_is_told_with_fact_and_nearest_legal_values(changes: list[str], world_size: int, told: str) -> None:
    assert told in faults(changes, world_size)


def test_layouts_that_are_legal() -> None:
    assert faults(["parallel.tensor=2", "parallel.pipeline=2", "model.tie_embeddings=true"], 4) == []
    assert (
        faults(["parallel.pipeline=8", "data.global_batch=1"], 8) == []
    )  # fewer microbatches than stages: slow, right
    assert (
        faults(["parallel.tensor=2", "parallel.sequence=true", "data.sequence_length=1023", "data.microbatch=2"], 2)
        == []
    )
    assert faults(["parallel.distributed_optimizer=true"], 2) == []
    assert faults(["parallel.distributed_optimizer=true"], 1) == []  # a run that shrank to one replica goes on
    assert faults(["optim.weight_decay=5", "optim.decoupled=false"]) == []
    # The native rule has no use for the side of the square.
    assert faults([*NATIVE, "data.multi_scale=true", "data.image_size=230"]) == []


SMALL_CHOICES: dict[str, list[int]] = {
    "model.layers": [1, 2, 3, 4, 6],
    "model.width": [8, 12, 24, 30, 36],
    "model.heads": [1, 2, 3, 4, 6],
    "model.query_groups": [1, 2, 3],
    "model.ffn": [8, 12, 15],
    "model.vocabulary": [10, 12, 64],
    "model.vision.patch": [2, 3],
    "parallel.tensor": [1, 2, 3, 4],
    "parallel.pipeline": [1, 2, 3],
    "parallel.context": [1, 1, 1, 2, 3],
    "parallel.sequence": [0, 1],
    "parallel.distributed_optimizer": [0, 1],
    "data.sequence_length": [15, 16, 36],
    "data.microbatch": [1, 2, 3],
    "data.global_batch": [4, 6, 12],
    "data.image_size": [6, 8, 12],
    "schedule.warmup": [0, 5, 9],
    "steps": [5, 8],
}


def legal(v: dict[str, int], world: int) -> bool:
    """Whether a run may start, written anew and without any of the code under test."""
    tensor, stages, heads, width = v["parallel.tensor"], v["parallel.pipeline"], v["model.heads"], v["model.width"]
    context = v["parallel.context"]
    copies, left = divmod(world, tensor * context * stages)
    split = [heads, v["model.query_groups"], v["model.ffn"], v["model.vocabulary"]]
    return (
        left == 0
        and v["data.global_batch"] % (v["data.microbatch"] * copies) == 0
        and v["model.layers"] >= stages
        and (context == 1 or v["data.sequence_length"] % (2 * context) == 0)
        and all(size % tensor == 0 for size in split)
        and width % (2 * heads) == 0
        and heads % v["model.query_groups"] == 0
        and (
            not v["parallel.sequence"]
            or (tensor > 1 and v["data.microbatch"] * v["data.sequence_length"] % (context * tensor) == 0)
        )
        and v["data.image_size"] % v["model.vision.patch"] == 0
        and (v["data.image_size"] // v["model.vision.patch"]) ** 2 <= v["data.sequence_length"]
        and v["schedule.warmup"] <= v["steps"]
    )


def near_legal(draw: random.Random) -> tuple[dict[str, int], int]:
    """A random run; half of the draws start from a legal one and change three values, or legal ones would be rare."""
    values = {key: draw.choice(choices) for key, choices in SMALL_CHOICES.items()}
    world = draw.choice([1, 2, 4, 6, 12])
    if draw.random() < 0.5:
        legal_values = {
            "model.layers": 6, "model.width": 24, "model.heads": 6, "model.query_groups": 3, "model.ffn": 12,
            "model.vocabulary": 12, "model.vision.patch": 2, "parallel.tensor": 3, "parallel.pipeline": 2,
            "parallel.context": 1, "parallel.sequence": 1, "parallel.distributed_optimizer": 1,
            "data.sequence_length": 36, "data.microbatch": 2, "data.global_batch": 12, "data.image_size": 12,
            "schedule.warmup": 5, "steps": 8,
        }  # fmt: skip
        changed = draw.sample(sorted(values), k=draw.randrange(4))
        values, world = legal_values | {key: values[key] for key in changed}, draw.choice([12, world])
    return values, world


def test_no_fault_exactly_when_the_oracle_says_legal() -> None:
    draw = random.Random(1)
    seen = {True: 0, False: 0}
    for _ in range(800):
        values, world = near_legal(draw)
        run = apply(RUN, [f"{key}={value}" for key, value in values.items()])
        expected = legal(values, world)
        seen[expected] += 1
        assert (check(run, world) == ()) == expected, (values, world)
    assert min(seen.values()) > 100


def offers(remedy: str) -> list[tuple[str, str]]:
    """Every (key, value) a remedy offers: ``use a.b 1, 2 or 4, or c 5`` gives four."""
    found = []
    for part in remedy.removeprefix("use ").split(", or "):
        key, _, values = part.replace("a world size of", "world").partition(" ")
        found += [(key, value) for value in re.split(r", | or ", values)]
    return found


def kinds(run: RunConfig, world: int) -> set[str]:
    """The faults of a run with their numbers masked, so that a fault that only changed its numbers is the same."""
    masked = {re.sub(r"[0-9]+", "#", fault.fact) for fault in check(run, world)}
    return {kind.replace("model.width # is not divisible by model.heads #", "the head width") for kind in masked}


def test_every_value_a_remedy_offers_cures_its_fault() -> None:
    draw = random.Random(2)
    tried: set[str] = set()
    for _ in range(300):
        values, world = near_legal(draw)
        run = apply(RUN, [f"{key}={value}" for key, value in values.items()])
        for fault in check(run, world):
            kind = re.sub(r"[0-9]+", "#", fault.fact)
            assert offers(fault.remedy)
            for key, value in offers(fault.remedy):
                cured, size = (run, int(value)) if key == "world" else (apply(run, [f"{key}={value}"]), world)
                left = kinds(cured, size)
                assert kind not in left, (fault, key, value)
                assert "head width" not in kind or not any("head width" in other for other in left), (fault, key, value)
                tried.add(f"{fault.key} by {key}")
    assert len(tried) >= 20, tried
