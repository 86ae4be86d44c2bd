"""What delayed scaling remembers goes through checkpoints, into other layouts, and may be missing or left over."""

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_nmm.config import RunConfig
from megatron_nmm.config.schema import Recipe
from megatron_nmm.verify.layouts import LAYOUTS, SINGLE, Layout
from megatron_nmm.verify.workers import WorkerPool
from tests.checkpoint import jobs

TP2 = next(layout for layout in LAYOUTS if layout.name == "TP2")
HALF, WHOLE = 2, 4


def run_of(recipe: Recipe, layout: Layout = SINGLE, history: int = 8) -> RunConfig:
    run = jobs.toy(layout)
    return replace(run, precision=replace(run.precision, recipe=recipe, amax_history=history))


def saved(pool: WorkerPool, recipe: Recipe, folder: Path) -> list[float]:
    """Losses of a whole run in one process, and of its first half a checkpoint in ``folder``."""
    pool.run(1, jobs.train_and_save, run_of(recipe), folder, HALF)
    losses: list[float] = pool.run(1, jobs.train_and_save, run_of(recipe), folder.with_name("straight"), WHOLE)[0]
    return losses


@pytest.mark.parametrize("layout", [SINGLE, TP2], ids=lambda layout: layout.name)
def test_scales_go_on_where_they_were(layout: Layout, pool: WorkerPool, tmp_path: Path) -> None:
    straight = saved(pool, "fp8_delayed", tmp_path / "half")
    run = run_of("fp8_delayed", layout)
    results = pool.run(layout.processes, jobs.resume_and_train, run, tmp_path / "half", WHOLE, tmp_path / "c")
    losses = results[0][1]
    if layout is SINGLE:
        assert losses == straight[HALF:]
    assert losses == pytest.approx(straight[HALF:], rel=1e-6)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (run_of("plain"), run_of("fp8_delayed")),
        (run_of("fp8_delayed"), run_of("plain")),
        (run_of("fp8_delayed"), run_of("mxfp8")),
        (run_of("fp8_delayed"), run_of("fp8_delayed", history=3)),
    ],
)
def test_a_run_may_change_its_recipe(before: RunConfig, after: RunConfig, pool: WorkerPool, tmp_path: Path) -> None:
    pool.run(1, jobs.train_and_save, before, tmp_path, HALF)
    reached, told, _ = pool.run(1, jobs.try_to_resume, after, tmp_path)[0]
    assert told == "" and reached.step == HALF
