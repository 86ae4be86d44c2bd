"""Packing reads sizes and finds repeated ids over shards; ids are given back by number without holding them all."""

from pathlib import Path

import numpy as np
import pytest

from megatron_nmm.data import plan_input
from megatron_nmm.data.packing import Limits
from megatron_nmm.data.plan_input import PackInput, read_input, reasons, usable
from megatron_nmm.data.tokenise import tokenise
from tests.data.corpora import quiet, record, settings, write_images, write_jsonl


def _silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def _two_shards(folder: Path) -> PackInput:
    """Samples 0 to 4 in one shard, 3 to 7 in another."""
    write_images(folder)
    parts = [
        write_jsonl(folder / name, [record(n, "text") for n in numbers])
        for name, numbers in (("a.jsonl", range(5)), ("b.jsonl", range(3, 8)))
    ]
    tokenise(parts, folder / "c", settings(folder, "c"), quiet)
    return read_input(folder / "c", _silent)


def test_ids_are_found_over_shards(tmp_path: Path) -> None:
    given = _two_shards(tmp_path)
    assert given.shard_starts.tolist() == [0, 5, 10]
    assert list(given.ids(np.array([0, 4, 5, 9]))) == ["text-0", "text-4", "text-3", "text-7"]
    assert list(given.ids(np.array([], dtype=np.int64))) == []
    assert np.flatnonzero(given.repeated).tolist() == [5, 6]
    assert (given.tokens > 0).all() and not given.patches.any()


def test_equal_hashes_are_no_repeated_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_input, "_hashes", lambda ids: np.zeros(len(ids), dtype=np.int64))
    assert np.flatnonzero(_two_shards(tmp_path).repeated).tolist() == [5, 6]


def test_the_reason_that_matters_most_is_told() -> None:
    given = PackInput(
        corpus=Path("c"),
        info={},
        tokens=np.array([5, 50, 50, 5]),
        patches=np.array([0, 0, 9, 0]),
        shard_starts=np.array([0, 4]),
        repeated=np.array([False, False, False, True]),
    )
    assert usable(given, Limits(10, 8)).tolist() == [True, False, False, False]
    assert usable(given, Limits(50)).tolist() == [True, True, True, False]
    told = list(reasons(given, Limits(10, 8), np.array([1, 2, 3])))
    assert [text.split(";")[0] for text in told] == [
        "50 tokens do not fit a pack of 10",
        "9 patches do not fit a pack of 8",
        "the id stands earlier in the corpus already",
    ]
