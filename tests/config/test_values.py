"""Annotations: what each accepts, and that every annotation of the schema is a supported one."""

from typing import Any, Literal

import pytest

from megatron_nmm.config import RunConfig, SourceConfig
from megatron_nmm.config.values import accepts, describe, from_json, integer, leaves, nearest_key


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, [0, -5, 2**62], [True, 1.0, "1", None, 2**63]),
        (float, [0.5, 3, -1e300], [True, "1", None, float("nan"), float("inf"), 10**400]),
        (bool, [True, False], [0, 1, "true", None]),
        (str, ["", "x"], [1, None, b"x"]),
        (Literal["a", "b"], ["a"], ["c", "", None, 1, ["a"]]),
        (int | None, [None, 3], [True, 1.5, "none"]),
        (tuple[SourceConfig, ...], [(), (SourceConfig(),)], [[SourceConfig()], ("a",), None]),
        (tuple[int, ...], [(), (1, 3)], [[1], (True,), (1.0,), ("1",), None]),
        (SourceConfig, [SourceConfig()], [SourceConfig, {}, None]),
    ],
)
def test_accepts(annotation: Any, good: list[object], bad: list[object]) -> None:
    assert [v for v in good if not accepts(annotation, v)] == []
    assert [v for v in bad if accepts(annotation, v)] == []
    assert describe(annotation)


def test_every_leaf_of_the_schema_is_supported_and_accepts_its_default() -> None:
    found = list(leaves(RunConfig, RunConfig()))
    assert len(found) > 50
    for key, annotation, value in found:
        assert accepts(annotation, value), key
        assert describe(annotation), key


@pytest.mark.parametrize(("word", "number"), [("1e3", 1000), ("-4", -4), ("1_0", 10), ("2.0", 2), (str(2**62), 2**62)])
def test_integer(word: str, number: int) -> None:
    assert integer(word) == number


@pytest.mark.parametrize("word", ["", "x", "1.5", "1e-3", "inf", "nan", "1e20", "-1e999999999", "0x10", "9" * 5000])
def test_integer_refuses(word: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        integer(word)


def test_incomplete_group_takes_defaults_only_when_allowed() -> None:
    faults: list[str] = []
    assert from_json(SourceConfig, {"corpus": "a"}, "s", faults, complete=False) == SourceConfig("a")
    assert faults == []
    from_json(SourceConfig, {"corpus": "a"}, "s", faults, complete=True)
    assert faults == [
        's.plan is missing; add it; this version\'s default is ""',
        "s.weight is missing; add it; this version's default is 1.0",
        "s.max_epochs is missing; add it; this version's default is null",
    ]


def test_nearest_key_is_always_one_of_the_known() -> None:
    assert nearest_key("", ["a.b", "c"]) in ("a.b", "c")
    assert nearest_key("zzz", ["only"]) == "only"
