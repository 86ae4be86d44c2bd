"""Shared argument types refuse in words."""

import argparse

import pytest

from megatron_nmm.config.arguments import positive


def test_whole_numbers_from_one() -> None:
    assert [positive(text) for text in ("1", " 12", "1_000")] == [1, 12, 1000]


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "many", ""])
def test_everything_else_is_told(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number of at least 1"):
        positive(text)
