"""Versions are compared by their release numbers."""

import pytest

from megatron_nmm.config.versions import Version, meets, parse


@pytest.mark.parametrize(
    ("text", "numbers"), [("2.14.1+cu130", (2, 14, 1)), ("0.4.1.post1", (0, 4, 1)), ("v12.8", (12, 8)), ("main", (0,))]
)
def test_parse(text: str, numbers: Version) -> None:
    assert parse(text) == numbers


@pytest.mark.parametrize(
    ("version", "rule", "answer"),
    [
        ((2, 10), ">=2.10", True),
        ((2, 9, 9), ">=2.10", False),
        ((2, 10, 0), "==2.10", True),
        ((0, 20), "==0.19.2", False),
        ((0, 4, 1), "<=0.4.1", True),
        ((0, 5), "<=0.4.1", False),
        ((1,), "", True),
    ],
)
def test_meets(version: Version, rule: str, answer: bool) -> None:
    assert meets(version, rule) == answer
