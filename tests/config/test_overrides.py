"""--set: typed by annotation, every bad change at once, unknown keys name the nearest one."""

from dataclasses import replace
from typing import Any

import pytest

from megatron_nmm.config import DataConfig, ModelConfig, RunConfig, SourceConfig, VisionConfig
from megatron_nmm.config.overrides import apply
from megatron_nmm.errors import ConfigError

TWO_SOURCES = replace(RunConfig(), data=DataConfig(train=(SourceConfig("a"), SourceConfig("b"))))


def value(run: RunConfig, key: str) -> Any:
    """The value at a dotted key."""
    found: Any = run
    for part in key.split("."):
        found = found[int(part)] if part.isdecimal() else getattr(found, part)
    return found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("steps=250", 250),
        ("steps=1_000", 1000),
        ("steps=1e3", 1000),
        ("steps= 7 ", 7),
        ("model.vocabulary=50_432", 50_432),
        ("optim.learning_rate=3e-4", 3e-4),
        ("optim.clip=1", 1.0),
        ("parallel.sequence=true", True),
        ("parallel.sequence=1", True),
        ("data.augment=False", False),
        ("data.augment=0", False),
        ("name=digits", "digits"),
        ("folder=runs/a=b", "runs/a=b"),
        ("data.tokenizer=", ""),
        ("model.image_mask=causal", "causal"),
        ("model.query_groups=4", 4),
        ("model.ffn=none", None),
        ("schedule.warmup=null", None),
        ("model.vision.patch=4", 4),
        ("data.train.1.weight=2", 2.0),
        ("data.train.0.corpus=data/x", "data/x"),
    ],
)
def test_value_is_read_by_its_annotation(change: str, expected: object) -> None:
    key = change.split("=")[0]
    found = value(apply(TWO_SOURCES, [change]), key)
    assert found == expected
    assert type(found) is type(expected)


def test_only_the_named_value_changes() -> None:
    assert apply(RunConfig(), ["model.vision.patch=4"]) == replace(
        RunConfig(), model=replace(ModelConfig(), vision=VisionConfig(patch=4))
    )
    assert apply(TWO_SOURCES, ["data.train.1.weight=3"]).data.train == (
        SourceConfig("a"),
        SourceConfig("b", weight=3.0),
    )


def test_later_change_wins_and_no_change_is_identity() -> None:
    assert apply(RunConfig(), ["steps=1", "steps=2"]).steps == 2
    assert apply(TWO_SOURCES, []) == TWO_SOURCES


def test_list_of_sources_as_json() -> None:
    changed = apply(
        RunConfig(), ['data.train=[{"corpus": "a"}, {"corpus": "b", "weight": 2}]', "data.train.0.weight=5"]
    )
    assert changed.data.train == (SourceConfig("a", weight=5.0), SourceConfig("b", weight=2.0))
    assert apply(TWO_SOURCES, ["data.train=[]"]).data.train == ()


def test_list_of_integers_as_json() -> None:
    assert apply(RunConfig(), ["parallel.stage_layers=[1, 3]", "parallel.stage_layers.1=4"]).parallel.stage_layers == (
        1,
        4,
    )
    assert apply(RunConfig(), ["model.vision.full_layers=[]"]).model.vision.full_layers == ()
    with pytest.raises(ConfigError, match=r"parallel.stage_layers expects a list of integers, in JSON: \[1, 2, ...\]"):
        apply(RunConfig(), ["parallel.stage_layers=[true]"])
    with pytest.raises(
        ConfigError, match=r"stage_layers.0 is no entry: .* is empty; set it as a whole in JSON, \[1, 2\]"
    ):
        apply(RunConfig(), ["parallel.stage_layers.0=4"])


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("parallel.tensr", "parallel.tensor"),
        ("tensor", "parallel.tensor"),
        ("model.tensor", "parallel.tensor"),
        ("optimizer.learning_rate", "optim.learning_rate"),
        ("lr", "optim.learning_rate"),
        ("Steps", "steps"),
        ("data.train.0.wieght", "data.train.0.weight"),
        ("modle.layers", "model.layers"),
        ("model.vision.patches", "model.vision.patch"),
        ("data.trian", "data.train"),
    ],
)
def test_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is not a key; the nearest key is {nearest} "):
        apply(TWO_SOURCES, [f"{key}=1"])


@pytest.mark.parametrize(
    "key", ["", ".", "model..layers", "steps.x", "model.layers.0", "__class__", "model.head_width"]
)
def test_path_outside_the_tree_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a key; the nearest key is [a-z]"):
        apply(RunConfig(), [f"{key}=1"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("steps=1.5", "an integer"),
        ("steps=", "an integer"),
        ("steps=ten", "an integer"),
        ("steps=true", "an integer"),
        ("steps=none", "an integer"),
        ("steps=nan", "an integer"),
        ("steps=1e999999999", "an integer"),
        ("steps=9223372036854775808", "an integer"),
        ("model.query_groups=x", "an integer, or none"),
        ("optim.clip=fast", "a finite number"),
        ("optim.clip=inf", "a finite number"),
        ("optim.clip=nan", "a finite number"),
        ("optim.clip=1e999", "a finite number"),
        ("parallel.sequence=yes", "true or false"),
        ("parallel.sequence=2", "true or false"),
        ("precision.dtype=fp16", "fp32 or bf16"),
        ("schedule.kind=Cosine", "cooldown, cosine or constant"),
        ("data.train=corpus", "a list of SourceConfig"),
        ("data.train={}", "a list of SourceConfig"),
        ("data.train=[1]", "a list of SourceConfig"),
        ("data.train=" + "[" * 100_000, "a list of SourceConfig"),
    ],
)
def test_value_of_the_wrong_kind_says_what_is_expected(change: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        apply(RunConfig(), [change])
    assert f"{change.split('=')[0]} expects {expected}" in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("steps", "--set steps has no '='; write --set KEY=VALUE"),
        ("model=3", "model is a group of keys; set one of them, e.g. model.layers"),
        ("data.train.0=3", "data.train.0 is a group of keys; set one of them, e.g. data.train.0.corpus"),
        ("data.train.2.weight=1", "data.train.2 is no entry: data.train has 2 entries; use an index below 2"),
        ("data.train.-1.weight=1", "data.train.-1 is no entry"),
        ("data.train.weight=1", "data.train.weight is no entry"),
        ("evaluate.sources.0.weight=1", "evaluate.sources is empty"),
        ('data.train=[{"corpsu": "a"}]', "data.train.0.corpsu is not a key; the nearest key is data.train.0.corpus"),
        ('data.train=[{"weight": "a"}]', 'data.train.0.weight "a" is of the wrong kind; it expects a finite number'),
        ('data.train=[{"weight": NaN}]', "NaN is not a finite number"),
        ('data.train=[{"weight": 1, "weight": 2}]', "the key 'weight' stands twice"),
    ],
)
def test_other_refusals(change: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        apply(TWO_SOURCES, [change])
    assert told in str(error.value)


def test_every_bad_change_is_listed_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        apply(RunConfig(), ["parallel.tensr=2", "steps=2", "optim.clip=x", "model"])
    message = str(error.value)
    assert message.splitlines()[0] == "--set: 3 faults"
    assert len(message.splitlines()) == 4
    for part in ("parallel.tensr", "optim.clip=x", "--set model"):
        assert part in message
