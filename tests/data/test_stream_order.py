"""Real corpora, mixed by packs, tokens or samples: every layout, and every change of it, reads the same samples."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_nmm.config.schema import RunConfig, SourceConfig
from megatron_nmm.data.ledger import Phase
from megatron_nmm.data.stream import Stream, stream
from megatron_nmm.data.tables import read_table
from megatron_nmm.errors import ConfigError
from tests.data.corpora import corpus, mixed_records, record, run_config

LENGTH = 32
GLOBAL_BATCH = 8
Rows = list[tuple[str, ...]]
"""Sample ids of packed rows."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three packed corpora whose packs hold one to many samples."""
    path = tmp_path_factory.mktemp("order")
    corpus(path, "mixed", mixed_records(60))
    corpus(path, "short", [record(1000 + n, "text", words=1 + n % 3) for n in range(150)])
    corpus(path, "few", [record(2000 + n, "text", words=2 + 9 * (n % 2)) for n in range(20)])
    return path


def _run(folder: Path, share_of: str, **data: Any) -> RunConfig:
    """0.5, 0.3 and 0.2 of three sources; the last one may be read one and a half times, and is used up on the way."""
    run = run_config(folder, [("mixed", 0.5), ("short", 0.3), ("few", 0.2)], share_of=share_of, microbatch=1, **data)
    limited = replace(run.data.train[2], max_epochs=1.5)
    return replace(run, steps=12, data=replace(run.data, train=(*run.data.train[:2], limited)))


def _step(ranks: list[Stream]) -> Rows:
    """One global batch, rank by rank."""
    return [row for rank in ranks for batch in rank.next_step() for row in batch.sample_ids]


def _ranks(run: RunConfig, size: int, consumed: int = 0, phase: Phase | None = None) -> list[Stream]:
    ranks = [stream(run, rank, size) for rank in range(size)]
    for rank in ranks:
        rank.seek(consumed, phase)
    return ranks


def _number(row: tuple[str, ...]) -> int:
    """Number of a row's first record: from 1000 on it is of "short", from 2000 on of "few"."""
    return int(row[0].split("-")[1])


def _samples(folder: Path, name: str) -> list[list[int]]:
    packs: list[list[int]] = read_table(folder / name / f"plan-{LENGTH}" / "plan.parquet").column("samples").to_pylist()
    return packs


@pytest.mark.parametrize("share_of", ["packs", "tokens", "samples"])
def test_data_parallel_1_2_and_4_read_the_same_samples(folder: Path, share_of: str) -> None:
    run = _run(folder, share_of, temperature=1.5)
    ranks = {size: _ranks(run, size) for size in (1, 2, 4)}
    steps = {size: [_step(ranks[size]) for _ in range(run.steps)] for size in ranks}
    assert steps[1] == steps[2] == steps[4]
    assert len(steps[1]) == run.steps and all(len(step) == GLOBAL_BATCH for step in steps[1])
    assert ranks[1][0].epochs() == ranks[4][3].epochs()
    assert ranks[1][0].epochs()["few"] == int(1.5 * len(_samples(folder, "few"))) / len(_samples(folder, "few"))


@pytest.mark.parametrize("share_of", ["packs", "tokens", "samples"])
def test_a_change_of_the_layout_on_the_way_changes_nothing(folder: Path, share_of: str) -> None:
    run = _run(folder, share_of)
    whole = [_step(one) for one in [_ranks(run, 1)] for _ in range(run.steps)]
    # (first step, ranks, rows of a microbatch): before, across and after the end of a source.
    parts: list[Rows] = []
    for first, size, microbatch in ((0, 4, 2), (3, 1, 4), (4, 2, 1), (9, 8, 1)):
        ranks = _ranks(replace(run, data=replace(run.data, microbatch=microbatch)), size, first * GLOBAL_BATCH)
        last = {0: 3, 3: 4, 4: 9, 9: run.steps}[first]
        parts += [_step(ranks) for _ in range(first, last)]
    assert parts == whole


def test_another_global_batch_cuts_the_same_order(folder: Path) -> None:
    run = _run(folder, "samples")
    (whole,), (halves,) = _ranks(run, 1), _ranks(replace(run, steps=24, data=replace(run.data, global_batch=4)), 1)
    rows = [row for _ in range(run.steps) for row in _step([whole])]
    assert [row for _ in range(2 * run.steps) for row in _step([halves])] == rows


def test_a_limited_source_is_read_so_often_and_no_more(folder: Path) -> None:
    run = _run(folder, "tokens")
    (reading,) = _ranks(run, 1)
    seen = Counter(sample for _ in range(run.steps) for row in _step([reading]) for sample in row)
    few = {f"text-{2000 + n}": seen[f"text-{2000 + n}"] for n in range(20)}
    assert set(few.values()) == {1, 2}
    packs = _samples(folder, "few")
    assert reading.drawn()["few"] == (int(1.5 * len(packs)), int(1.5 * len(packs)) / len(packs))


def test_shares_of_samples_are_those_asked_for(folder: Path) -> None:
    run = run_config(folder, [("mixed", 0.6), ("short", 0.4)], share_of="samples")
    (reading,) = _ranks(run, 1)
    mixture, held = reading.mixture, np.zeros(2)
    packs = [_samples(folder, name) for name in ("mixed", "short")]
    for number in range(10_000):
        place = mixture[number]
        held[place.source] += len(packs[place.source][place.pack])
    assert held / held.sum() == pytest.approx([0.6, 0.4], abs=0.001)


def test_a_source_that_joins_begins_no_other_anew(folder: Path) -> None:
    before = run_config(folder, [("mixed", 1.0)], share_of="tokens", microbatch=1)
    (reading,) = _ranks(before, 1)
    packs = len(_samples(folder, "mixed"))
    rows = [row for _ in range(packs // GLOBAL_BATCH // 2) for row in _step([reading])]
    consumed = reading.consumed
    joined = (SourceConfig(str(folder / "short"), weight=1.0), *before.data.train)
    after = replace(before, data=replace(before.data, train=joined))
    for size in (1, 2):
        ranks = _ranks(after, size, consumed, Phase(consumed, (0, consumed)))
        rest: Rows = []
        while ranks[0].drawn()["mixed"][0] < packs:
            rest += _step(ranks)
        mixed = [row for row in [*rows, *rest] if _number(row) < 1000][:packs]
        assert sorted(sample for row in mixed for sample in row) == sorted(r["id"] for r in mixed_records(60))
        assert any(_number(row) >= 1000 for row in rest)


def test_a_run_longer_than_its_limits_is_refused(folder: Path) -> None:
    run = _run(folder, "tokens")
    limited = tuple(replace(source, max_epochs=1.0) for source in run.data.train)
    packs = sum(len(_samples(folder, name)) for name in ("mixed", "short", "few"))
    long = replace(run, steps=1000, data=replace(run.data, train=limited))
    with (
        pytest.raises(
            ConfigError, match=rf"reads 8,000 packs .* used up after {packs} .* raise data\.train\.N\.max_epochs"
        ),
        stream(long, 0, 1) as reading,
    ):
        reading.next_step()
    fitting = replace(long, steps=packs // GLOBAL_BATCH)
    (reading,) = _ranks(fitting, 1)
    seen = Counter(sample for _ in range(fitting.steps) for row in _step([reading]) for sample in row)
    assert set(seen.values()) == {1}
