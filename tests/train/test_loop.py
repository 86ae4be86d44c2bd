"""A run from its first step to its plot: what it leaves behind, how it continues, how it stops."""

import contextlib
import errno
import io
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_nmm.checkpoint.publish import CHECKPOINTS
from megatron_nmm.config import JournalConfig, ParallelConfig, RunConfig
from megatron_nmm.parallel.world import World
from megatron_nmm.train import loop, metrics
from megatron_nmm.train.cadence import due
from megatron_nmm.verify.workers import Place, WorkerError, WorkerPool
from tests.train.runs import tiny_run, train_job

TIMES = ("seconds", "elapsed_s", "tokens_per_second", "image_tokens_per_second", "flops_per_second")
VARYING = (*TIMES, "memory_bytes", "data_wait_s", "data_wait_share")
"""What two equal runs may differ in."""


def _lines(run: RunConfig) -> list[dict[str, Any]]:
    records = metrics.read(Path(run.folder) / metrics.NAME)
    return [{key: value for key, value in record.items() if key not in VARYING} for record in records]


@pytest.mark.parametrize(
    ("every", "steps"), [(0, [10]), (4, [4, 8, 10]), (1, list(range(1, 11))), (10, [10]), (50, [10])]
)
def test_due(every: int, steps: list[int]) -> None:
    assert [step for step in range(1, 11) if due(every, step, 10)] == steps


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, pool: WorkerPool) -> RunConfig:
    """A run of six steps, done."""
    run = tiny_run(tmp_path_factory.mktemp("finished"), journal=JournalConfig(tensorboard=True, telemetry=3))
    pool.run(1, train_job, run)
    return run


def test_a_run_leaves_metrics_plot_config_and_checkpoints(finished: RunConfig) -> None:
    folder = Path(finished.folder)
    lines = _lines(finished)
    assert [(r["event"], r["step"]) for r in lines] == [
        *[("step", 1), ("step", 2), ("step", 3), ("telemetry", 3), ("validation", 3)],
        *[("step", 4), ("step", 5), ("step", 6), ("telemetry", 6), ("validation", 6)],
    ]
    steps = [r for r in lines if r["event"] == "step"]
    assert [r["consumed_packs"] for r in steps] == [8, 16, 24, 32, 40, 48]
    assert [r["learning_rate"] for r in steps] == [0.005, *[0.01] * 5]
    assert set(steps[0]["sources"]) == {"web", "books"}
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert lines[-1]["sources"].keys() == {"web"}
    assert sorted(path.name for path in (folder / CHECKPOINTS).iterdir() if path.is_dir()) == [
        "step-00000003",
        "step-00000006",
    ]
    assert (folder / "loss.png").stat().st_size > 10_000
    assert (folder / "telemetry.png").stat().st_size > 10_000
    assert list((folder / "tensorboard").iterdir())


def test_n_and_n_steps_are_2n_steps(finished: RunConfig, tmp_path: Path, pool: WorkerPool) -> None:
    half = replace(finished, folder=str(tmp_path / "run"), steps=3)
    pool.run(1, train_job, half)
    pool.run(1, train_job, replace(half, steps=6))
    assert _lines(half) == _lines(finished)


def test_a_run_continues_in_other_layouts(finished: RunConfig, tmp_path: Path, pool: WorkerPool) -> None:
    run = replace(finished, folder=str(tmp_path / "run"))
    # One process first: where a run starts depends on its layout, how it goes on must not.
    pool.run(1, train_job, replace(run, steps=2))
    pool.run(2, train_job, replace(run, steps=4, parallel=ParallelConfig(pipeline=2)))
    pool.run(2, train_job, replace(run, steps=6, parallel=ParallelConfig(distributed_optimizer=True)))
    ours, theirs = ([r for r in _lines(x) if r["event"] == "step"] for x in (run, finished))
    assert [(r["step"], r["tokens"]) for r in ours] == [(r["step"], r["tokens"]) for r in theirs]
    assert [r["loss"] for r in ours] == pytest.approx([r["loss"] for r in theirs], rel=1e-5)


def test_steps_written_after_the_last_checkpoint_are_taken_again_once(
    finished: RunConfig, tmp_path: Path, pool: WorkerPool
) -> None:
    run = replace(finished, folder=str(tmp_path / "run"), steps=4)
    with pytest.raises(WorkerError, match="the power goes"):
        pool.run(1, _crash_after, run, 5)
    assert [r["step"] for r in _lines(run) if r["event"] == "step"] == [1, 2, 3, 4, 5]
    pool.run(1, train_job, replace(run, steps=6))
    assert _lines(run) == _lines(finished)


def _crash_after(place: Place, run: RunConfig, step: int) -> None:
    """Train towards six steps, and die after ``step`` without a word."""

    class Dying(loop.Journal):
        def step(self, number: int, *arguments: Any, **options: Any) -> None:
            super().step(number, *arguments, **options)
            if number == step:
                raise KeyError("the power goes")

    loop.Journal = Dying  # type: ignore[misc]  # this worker process ends with the job
    train_job(place, replace(run, steps=6))


def test_a_line_may_stand_for_several_steps(finished: RunConfig, tmp_path: Path, pool: WorkerPool) -> None:
    run = replace(finished, folder=str(tmp_path / "run"), journal=JournalConfig(every=4, tensorboard=False))
    pool.run(1, train_job, run)
    every, single = ([r for r in _lines(x) if r["event"] == "step"] for x in (run, finished))
    # A checkpoint after step 3: what a resume would lose is written down before it.
    assert [r["step"] for r in every] == [3, 4, 6]
    for line, steps in zip(every, (single[:3], single[3:4], single[4:]), strict=True):
        tokens = sum(r["tokens"] for r in steps)
        assert line["tokens"] == tokens
        assert line["loss"] == pytest.approx(sum(r["loss"] * r["tokens"] for r in steps) / tokens)


def test_a_stop_request_on_one_rank_saves_and_ends_all(finished: RunConfig, tmp_path: Path, pool: WorkerPool) -> None:
    run = replace(finished, folder=str(tmp_path / "run"), steps=1_000, parallel=ParallelConfig(time_limit_s=60.0))
    pool.run(2, _interrupted, run)
    steps = [r["step"] for r in _lines(run) if r["event"] == "step"]
    # The signal comes in step 2; a busy machine may deliver it a step or so later.
    assert steps == list(range(1, len(steps) + 1))
    assert 2 <= len(steps) < 50
    assert (tmp_path / "run" / CHECKPOINTS / f"step-{len(steps):08d}").is_dir()


def _interrupted(place: Place, run: RunConfig) -> None:
    """Train; rank 1 gets a SIGTERM in its second step."""
    if place.rank == 1:
        real = World.any
        asked = []

        def any_but_first(self: World, flag: bool) -> bool:
            asked.append(flag)
            if len(asked) == 3:  # two agreements a step: finite gradients, stop
                os.kill(os.getpid(), signal.SIGTERM)
            return real(self, flag)

        World.any = any_but_first  # type: ignore[method-assign]
        try:
            train_job(place, run)
        finally:
            World.any = real  # type: ignore[method-assign]
    else:
        train_job(place, run)


def test_a_full_disk_costs_lines_of_metrics_but_not_the_run(
    finished: RunConfig, tmp_path: Path, pool: WorkerPool
) -> None:
    run = replace(finished, folder=str(tmp_path / "run"))
    (said,) = pool.run(1, _without_room_for_metrics, run)
    assert _lines(run) == []
    assert (tmp_path / "run" / CHECKPOINTS / "step-00000006").is_dir()
    assert said.count("metrics cannot be written (No space left on device); training goes on") == 1


def _without_room_for_metrics(place: Place, run: RunConfig) -> str:
    """What a run says that cannot append to its metrics."""
    real = metrics.append
    said = io.StringIO()

    def refuse(path: Path, record: dict[str, Any]) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    metrics.append = refuse
    try:
        with contextlib.redirect_stdout(said):
            train_job(place, run)
    finally:
        metrics.append = real
    return said.getvalue()
