"""A branch is its trunk up to the checkpoint it takes up, to the bit, and from there a run of its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_nmm.checkpoint.publish import CHECKPOINTS
from megatron_nmm.config import InitConfig, OptimConfig, RunConfig, SaveConfig, ScheduleConfig
from megatron_nmm.data import ledger
from megatron_nmm.train import metrics
from megatron_nmm.verify.workers import WorkerError, WorkerPool
from tests.train.runs import tiny_run, train_job

COOLDOWN = ScheduleConfig(kind="cooldown", warmup=2, cooldown=0.4)
"""Of 10 steps, from step 7 on."""
START = 6


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory, pool: WorkerPool) -> RunConfig:
    """A finished constant-rate run of 8 steps that was told to keep the checkpoints of steps 3 and 6."""
    folder = tmp_path_factory.mktemp("trunk")
    run = tiny_run(folder, steps=8, save=SaveConfig(every=1, keep=1, at=(3, START)))
    pool.run(1, train_job, run)
    return run


def _branch(trunk: RunConfig, folder: Path, **changes: Any) -> RunConfig:
    start = Path(trunk.folder) / CHECKPOINTS / f"step-{START:08d}"
    init = InitConfig(continue_from=str(start))
    return replace(trunk, **{"folder": str(folder), "steps": 10, "schedule": COOLDOWN, "init": init, **changes})


def _steps(run: RunConfig) -> list[tuple[int, float, float, int]]:
    """(step, loss, rate, packs) of every step record."""
    records = metrics.read(Path(run.folder) / metrics.NAME)
    return [
        (one["step"], one["loss"], one["learning_rate"], one["consumed_packs"])
        for one in records
        if one["event"] == "step"
    ]


def test_checkpoints_at_given_steps_outlive_the_newest(trunk: RunConfig) -> None:
    kept = sorted(path.name for path in (Path(trunk.folder) / CHECKPOINTS).glob("step-*"))
    assert kept == ["step-00000003", "step-00000006", "step-00000008"]


def test_a_branch_is_its_trunk_and_then_the_single_run_of_its_schedule(
    trunk: RunConfig, tmp_path: Path, pool: WorkerPool
) -> None:
    branch = _branch(trunk, tmp_path / "branch")
    single = replace(branch, folder=str(tmp_path / "single"), init=InitConfig())
    for run in (branch, single):
        pool.run(1, train_job, run)
    assert _steps(branch) == _steps(single)
    assert _steps(branch)[:START] == _steps(trunk)[:START]
    rates = [rate for _, _, rate, _ in _steps(branch)]
    assert rates[START] == rates[START - 1] > rates[START + 1] > rates[START + 2] > 0, "it cools down"
    fed = ledger.read(tmp_path / "branch" / ledger.NAME)
    assert [fed.packs_of(step) for step in range(1, 11)] == [range(8 * (step - 1), 8 * step) for step in range(1, 11)]
    # It goes on from its own checkpoints, not from its trunk's.
    pool.run(1, train_job, replace(branch, steps=11))
    assert [step for step, *_ in _steps(branch)] == list(range(1, 12))


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"optim": OptimConfig(learning_rate=0.5)}, "is of another run: optim.learning_rate was 0.01, now 0.5"),
        ({"seed": 5}, "is of another run: seed was 1234, now 5"),
        ({"steps": START}, "stands at step 6, and steps is 6; use an earlier checkpoint, or more steps"),
    ],
)
def test_a_branch_of_another_run_is_refused(
    trunk: RunConfig, tmp_path: Path, pool: WorkerPool, changes: dict[str, Any], fact: str
) -> None:
    with pytest.raises(WorkerError) as raised:
        pool.run(1, train_job, _branch(trunk, tmp_path / "branch", **changes))
    assert fact in str(raised.value)
