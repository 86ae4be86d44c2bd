"""check: every fault at once, ranges and kinds of single values, no crash on any of them."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from megatron_nmm.config import (
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    ParallelConfig,
    RunConfig,
    SaveConfig,
    SourceConfig,
    SparseConfig,
    VisionConfig,
)
from megatron_nmm.config.bounds import BOUNDS, pattern
from megatron_nmm.config.check import check, require
from megatron_nmm.config.overrides import apply
from megatron_nmm.config.values import leaves
from megatron_nmm.errors import ConfigError

# Every list of the schema has an entry here, so that its entries are seen too.
SOURCES = (SourceConfig("a"), SourceConfig("b"))
RUN = replace(
    RunConfig(),
    model=ModelConfig(vision=VisionConfig(full_layers=(0,)), sparse=SparseConfig(dense_layers=(0,))),
    parallel=ParallelConfig(stage_layers=(24,)),
    data=DataConfig(train=SOURCES),
    evaluate=EvaluateConfig(sources=SOURCES[:1]),
    save=SaveConfig(at=(500,)),
)


def faults(changes: Sequence[str], world_size: int = 1) -> list[str]:
    """The faults of ``RUN`` with some changes, as text."""
    return [str(fault) for fault in check(apply(RUN, changes), world_size)]


def test_defaults_are_legal_on_one_process() -> None:
    assert check(RunConfig(), 1) == ()
    require(RunConfig(), 1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("steps=0", "use a value of at least 1"),
        ("steps=2147483648", "use a value of at most 2147483647"),
        ("seed=-1", "use a value of at least 0 and at most 4294967295"),
        ("model.layers=-2", "use a value of at least 1"),
        ("model.query_groups=0", "use a value of at least 1"),
        ("model.ffn=0", "use a value of at least 1"),
        ("model.norm_epsilon=0", "use a value above 0"),
        ("model.rope_base=1", "use a value above 1"),
        ("model.vision.depth=-1", "use a value of at least 0"),
        ("model.vision.channels=1", "use 3"),
        ("model.vision.width=0", "use a value of at least 1"),
        ("model.vision.layer_scale=-0.1", "use a value of at least 0"),
        ("model.vision.table_side=-1", "use a value of at least 0"),
        ("model.vision.full_layers.0=-1", "use a value of at least 0"),
        ("model.head_dim=0", "use a value of at least 1"),
        ("parallel.stage_layers.0=-1", "use a value of at least 0"),
        ("model.sparse.dense_layers.0=-1", "use a value of at least 0"),
        ("optim.rates.vision=-1", "use a value of at least 0"),
        ("journal.telemetry=-1", "use a value of at least 0"),
        ("parallel.tensor=0", "use a value of at least 1"),
        ("data.sequence_length=1", "use a value of at least 2"),
        ("data.noise=-0.1", "use a value of at least 0"),
        ("data.train.1.weight=0", "use a value above 0"),
        ("evaluate.sources.0.weight=-1", "use a value above 0"),
        ("optim.learning_rate=0", "use a value above 0"),
        ("optim.beta1=1", "use a value of at least 0 and below 1"),
        ("optim.beta2=-0.1", "use a value of at least 0 and below 1"),
        ("optim.clip=-1", "use a value of at least 0"),
        ("schedule.warmup=-1", "use a value of at least 0"),
        ("schedule.cooldown=1.01", "use a value of at least 0 and at most 1"),
        ("schedule.floor=-0.5", "use a value of at least 0 and at most 1"),
        ("save.keep=0", "use a value of at least 1"),
        ("journal.every=0", "use a value of at least 1"),
    ],
)
def test_value_out_of_range_is_told_alone(change: str, told: str) -> None:
    [told_fault] = faults([change])
    assert told_fault.startswith(change.split("=")[0])
    assert told_fault.endswith(f"is out of range; {told}")


@pytest.mark.parametrize(
    "change",
    [
        "schedule.cooldown=0",
        "schedule.cooldown=1",
        "schedule.warmup=0",
        "schedule.warmup=1000",
        "optim.beta1=0",
        "optim.clip=0",
        "optim.weight_decay=0.999",
        "seed=0",
        "seed=4294967295",
        "model.tie_embeddings=true",
        "data.image_size=14",
        "data.image_size=448",
        "model.query_groups=1",
    ],
)
def test_ends_of_the_ranges_are_legal(change: str) -> None:
    assert faults([change]) == []


def test_every_number_of_the_schema_has_a_range_and_every_range_a_number() -> None:
    numbers = {
        pattern(key)
        for key, annotation, _ in leaves(RunConfig, RUN)
        if annotation in (int, float, int | None, float | None)
    }
    assert numbers == BOUNDS.keys()


def test_every_fault_at_once() -> None:
    told = faults(
        ["parallel.tensor=3", "parallel.pipeline=5", "data.global_batch=7", "data.microbatch=2", "data.image_size=230",
         "optim.beta1=1", "schedule.cooldown=2", "model.vision.depth=3", "model.vision.width=386",
         "schedule.warmup=3000", "name=a/b"],
        15,
    )  # fmt: skip
    assert len(told) == 10
    with pytest.raises(ConfigError) as error:
        require(apply(RUN, ["optim.beta1=1", "steps=0"]), 1)
    assert str(error.value).splitlines() == [
        "the run cannot start: 2 faults",
        "  1. steps 0 is out of range; use a value of at least 1",
        "  2. optim.beta1 1.0 is out of range; use a value of at least 0 and below 1",
    ]


def test_one_fault_is_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^the run cannot start: steps 0 is out of range; use a value of at least 1$"
    ):
        require(apply(RUN, ["steps=0"]), 1)


def test_every_number_at_zero_and_below_is_reported_without_a_crash() -> None:
    for bad in ("0", "-1"):
        changes = [f"{key}={bad}" for key, annotation, _ in leaves(RunConfig, RUN) if annotation in (int, float)]
        told = check(apply(RUN, changes), int(bad))
        assert {"model.heads", "model.width", "parallel.tensor", "data.microbatch", "world size"} <= {
            f.key for f in told
        }
        assert len({f.key for f in told}) == len(told)


def test_huge_numbers_are_checked_quickly() -> None:
    most = 2**31 - 1  # prime
    told = faults(
        [f"model.width={most}", f"model.vocabulary={most}", "parallel.tensor=2", f"model.layers={most}"], most
    )
    assert any("the world size 2147483647 is not divisible by parallel.tensor 2" in fault for fault in told)


@pytest.mark.parametrize(
    ("part", "values", "told"),
    [
        ("", {"steps": "5"}, "steps '5' is of the wrong kind; use an integer"),
        ("", {"steps": True}, "steps True is of the wrong kind; use an integer"),
        ("", {"device": "tpu"}, "device 'tpu' is of the wrong kind; use auto, cpu or "),
        ("", {"model": None}, "model None is of the wrong kind; use a group with the keys layers, width"),
        ("", {"name": None}, "name None is of the wrong kind; use text"),
        ("optim", {"clip": float("nan")}, "optim.clip nan is of the wrong kind; use a finite number"),
        ("optim", {"clip": float("inf")}, "optim.clip inf is of the wrong kind; use a finite number"),
        ("model", {"heads": 16.0}, "model.heads 16.0 is of the wrong kind; use an integer"),
        ("data", {"train": [SourceConfig()]}, "is of the wrong kind; use a list of SourceConfig"),
    ],
)
def test_recipe_with_a_value_of_the_wrong_kind(part: str, values: dict[str, Any], told: str) -> None:
    run = replace(RUN, **({part: replace(getattr(RUN, part), **values)} if part else values))
    [fault] = check(run, 1)
    assert told in str(fault)


def test_world_size_that_is_no_integer() -> None:
    assert [f.fact for f in check(RUN, "2")] == ["the world size '2' is out of range"]  # type: ignore[arg-type]


def test_schema_groups_are_all_frozen() -> None:
    groups = [RUN, *(getattr(RUN, f.name) for f in fields(RUN) if is_dataclass(getattr(RUN, f.name)))]
    for group in (*groups, RUN.model.vision, SOURCES[0]):
        with pytest.raises(AttributeError, match="cannot assign"):
            setattr(group, fields(group)[0].name, 1)
