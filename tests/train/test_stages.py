"""Training in stages: each begins with the weights of the one before, a new optimizer, and other frozen parts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_nmm.checkpoint.publish import CHECKPOINTS
from megatron_nmm.config import OptimConfig, ParallelConfig, RunConfig
from megatron_nmm.config.schema import EvaluateConfig, InitConfig
from megatron_nmm.models.parts import part_of
from megatron_nmm.train import loop
from megatron_nmm.verify.workers import Place, WorkerError, WorkerPool
from tests.checkpoint import jobs
from tests.train.runs import tiny_run, train_job
from tests.train.stages import only

FIRST, SECOND = only("vision"), only("vision", "attention", "norms")


def _stage(folder: Path, name: str, **changes: Any) -> RunConfig:
    return replace(tiny_run(folder), folder=str(folder / name), steps=4, evaluate=EvaluateConfig(), **changes)


def _weights(run: RunConfig, step: int, pool: WorkerPool) -> dict[str, torch.Tensor]:
    found = pool.run(1, jobs.tensors, Path(run.folder) / f"{CHECKPOINTS}/step-{step:08d}")[0]
    return {name: value for name, value in found.items() if not name.startswith("optimizer.")}


def _moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {part_of(name) for name in before if not torch.equal(before[name], after[name])}


def test_a_stage_begins_with_the_weights_of_the_one_before(tmp_path: Path, pool: WorkerPool) -> None:
    """On two pipeline stages, the first of which alone trains at first; then resumed, which reads nothing again."""
    optim = OptimConfig(learning_rate=1e-2)
    pipeline = ParallelConfig(pipeline=2, time_limit_s=60.0)
    one = _stage(tmp_path, "one", optim=replace(optim, rates=FIRST), parallel=pipeline)
    pool.run(2, train_job, one)
    start = InitConfig(checkpoint=one.folder)
    two = _stage(tmp_path, "two", optim=replace(optim, rates=SECOND), parallel=pipeline, init=start, seed=99)
    (said, _) = pool.run(2, _told, replace(two, steps=3))
    kept = {key: _weights(run, step, pool) for key, run, step in (("one", one, 4), ("two", two, 3))}
    assert _moved(kept["one"], kept["two"]) == {"vision", "attention", "norms"}
    assert [line for line in said if line.startswith("first weights from ")] and "continuing" not in " ".join(said)
    trains = next(line for line in said if line.startswith("trains "))
    assert trains.startswith("trains vision 1.57 k, attention 8.22 k, norms 160; frozen: ffn 9.22 k, embeddings 10.2 k")
    assert "at random" not in trains

    (again, _) = pool.run(2, _told, two)
    assert [line for line in again if "continuing after step 3" in line]
    assert not [line for line in again if line.startswith("first weights from ")]
    assert _moved(kept["two"], _weights(two, 4, pool)) == {"vision", "attention", "norms"}
    straight = replace(two, folder=str(tmp_path / "straight"))
    pool.run(2, train_job, straight)
    assert _moved(_weights(straight, 4, pool), _weights(two, 4, pool)) == set()


def _told(place: Place, run: RunConfig) -> list[str]:
    """Train; the lines said."""
    lines: list[str] = []

    class Listening(loop.Journal):
        def say(self, text: str) -> None:
            lines.append(text)

    real = loop.Journal
    loop.Journal = Listening  # type: ignore[misc]
    try:
        train_job(place, run)
    finally:
        loop.Journal = real  # type: ignore[misc]
    return lines


def test_a_stage_in_the_folder_of_another_is_refused_and_told_how_to_begin(tmp_path: Path, pool: WorkerPool) -> None:
    optim = OptimConfig(learning_rate=1e-2, rates=FIRST)
    one = _stage(tmp_path, "one", optim=optim)
    pool.run(1, train_job, one)
    two = replace(one, steps=6, optim=replace(optim, rates=SECOND))
    remedy = f"--set init.checkpoint={one.folder} to begin with the old one's weights"
    with pytest.raises(WorkerError, match=rf"optim.rates.attention was 0.0, now 1.0;.*{remedy}"):
        pool.run(1, train_job, two)
    # Without the note of what the folder belongs to, the checkpoint itself tells.
    (tmp_path / "one/config.json").unlink()
    with pytest.raises(WorkerError, match=r"is of another training stage \(attention, norms: trained now"):
        pool.run(1, train_job, two)
