"""Bad images never stop a run and never vanish: noted once in any layout, counted over resumes, too many refused."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_nmm.checkpoint.publish import CHECKPOINTS
from megatron_nmm.config import JournalConfig, ParallelConfig, RunConfig, SaveConfig
from megatron_nmm.data import ledger, quarantine
from megatron_nmm.errors import DataError
from megatron_nmm.files import step_lines
from megatron_nmm.train import metrics
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.data.corpora import corpus
from tests.data.damage import own_images, rot
from tests.train.runs import LENGTH, tiny_run, train_job

ROTTEN = ["caption-1", "interleaved-5", "interleaved-23"]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run of six steps, validated on what it trains on; three samples of its corpus "own" are rotten."""
    folder = tmp_path_factory.mktemp("damaged")
    own = corpus(folder, "own", own_images(folder, 30), LENGTH)
    rot(own, ROTTEN)
    run = tiny_run(folder)
    source = replace(run.data.train[0], corpus=str(own))
    data = replace(run.data, train=(source, run.data.train[1]))
    return replace(run, data=data, evaluate=replace(run.evaluate, sources=(source,)))


def _lines(run: RunConfig, name: str) -> list[dict[str, Any]]:
    return step_lines.read(Path(run.folder) / name)


def _train(place: Place, run: RunConfig) -> tuple[str, str]:
    """(what rank said, the DataError it ended with)."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            train_job(place, run)
        except DataError as error:
            return said.getvalue(), str(error)
    return said.getvalue(), ""


def test_every_layout_trains_on_and_notes_the_same(damaged: RunConfig, tmp_path: Path, pool: WorkerPool) -> None:
    alone = replace(damaged, folder=str(tmp_path / "alone"))
    ((said, error),) = pool.run(1, _train, alone)
    assert error == ""
    noted = _lines(alone, quarantine.NAME)
    assert sorted(line["sample"] for line in noted) == sorted(ROTTEN)
    assert [line["step"] for line in noted] == sorted(line["step"] for line in noted)
    assert said.count("quarantined sample ") == len(ROTTEN)
    steps = [line for line in _lines(alone, metrics.NAME) if line["event"] == "step"]
    assert steps[-1]["quarantined"] == len(ROTTEN) and steps[-1]["replaced_samples"] >= len(ROTTEN) - 1
    assert [line["samples"] for line in steps] == sorted({line["samples"] for line in steps})
    for number, parallel in enumerate((ParallelConfig(), ParallelConfig(tensor=2), ParallelConfig(pipeline=2))):
        run = replace(damaged, folder=str(tmp_path / str(number)), parallel=parallel)
        assert [error for _, error in pool.run(2, _train, run)] == ["", ""]
        assert _lines(run, quarantine.NAME) == noted
        assert _lines(run, ledger.NAME) == _lines(alone, ledger.NAME)
        ours = [line for line in _lines(run, metrics.NAME) if line["event"] == "step"]
        for key in ("samples", "replaced_samples", "quarantined", "tokens", "epochs"):
            assert [line[key] for line in ours] == [line[key] for line in steps]


def test_a_resumed_run_notes_nothing_twice(damaged: RunConfig, tmp_path: Path, pool: WorkerPool) -> None:
    whole = replace(damaged, folder=str(tmp_path / "whole"), journal=JournalConfig(every=50, tensorboard=False))
    halves = replace(whole, folder=str(tmp_path / "halves"), save=SaveConfig(every=2))
    pool.run(1, _train, whole)
    pool.run(1, _train, replace(halves, steps=2))
    pool.run(2, _train, replace(halves, steps=4))
    pool.run(1, _train, halves)
    for name in (quarantine.NAME, ledger.NAME):
        drawn = [{key: value for key, value in line.items() if key != "drawn"} for line in _lines(halves, name)]
        assert len(drawn) == len(_lines(whole, name))
    assert {line["sample"] for line in _lines(halves, quarantine.NAME)} == set(ROTTEN)
    last, expected = (
        next(line for line in reversed(_lines(run, metrics.NAME)) if line["event"] == "step") for run in (halves, whole)
    )
    for key in ("samples", "replaced_samples", "quarantined", "epochs"):
        assert last[key] == expected[key]


def test_too_many_bad_samples_stop_every_rank_alike_and_lose_nothing(
    damaged: RunConfig, tmp_path: Path, pool: WorkerPool
) -> None:
    strict = replace(damaged, folder=str(tmp_path / "run"), data=replace(damaged.data, max_bad=0))
    outcomes = pool.run(2, _train, strict)
    errors = {error for _, error in outcomes}
    assert len(errors) == 1
    (message,) = errors
    assert "more than data.max_bad=0 allows" in message and "cannot be decoded" in message
    assert "--set data.max_bad=" in message and any(sample in message for sample in ROTTEN)
    reached = max(int(path.name.removeprefix("step-")) for path in (tmp_path / "run" / CHECKPOINTS).glob("step-*"))
    assert reached == [line for line in _lines(strict, ledger.NAME) if "packs" in line][-1]["step"]
    # Started again as it was it refuses at once; with more patience it goes on from there.
    assert {error for _, error in pool.run(2, _train, strict)} == {message}
    patient = replace(strict, data=replace(strict.data, max_bad=10))
    said = pool.run(1, _train, patient)[0][0]
    assert f"continuing after step {reached}" in said
    assert {line["sample"] for line in _lines(strict, quarantine.NAME)} == set(ROTTEN)


def test_a_mixture_changed_in_between_goes_on_and_says_so(damaged: RunConfig, tmp_path: Path, pool: WorkerPool) -> None:
    run = replace(damaged, folder=str(tmp_path / "run"))
    pool.run(1, _train, replace(run, steps=3))
    first, second = run.data.train
    changed = replace(run, data=replace(run.data, train=(replace(first, weight=1.0), replace(second, weight=3.0))))
    said = pool.run(2, _train, changed)[0][0]
    assert "the data changed after step 3: " in said and "weight 2.0 -> 1.0" in said
    datas = ledger.read(Path(run.folder) / ledger.NAME).datas
    assert [(data.step, data.phase.first, data.phase.drawn) for data in datas] == [(1, 0, None), (4, 24, (16, 8))]
    epochs = [line["epochs"] for line in _lines(run, metrics.NAME) if line["event"] == "step"]
    packs = [source.packs for source in datas[-1].state.sources]
    drawn = [[round(times * size) for times, size in zip(line.values(), packs, strict=True)] for line in epochs]
    assert drawn[2] == [16, 8] and drawn[-1] == [22, 26]
    # The same configuration again is no change.
    assert "the data changed" not in pool.run(1, _train, replace(changed, steps=7))[0][0]
