"""A checkpoint of uneven pipeline stages, one of them without decoder layers, continues in any other split."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_nmm.config import DataConfig, ParallelConfig, RunConfig
from megatron_nmm.config.presets import navil
from megatron_nmm.verify import layouts
from megatron_nmm.verify.workers import WorkerPool
from tests.checkpoint import jobs

HALF, WHOLE = 2, 4
FIRST_EMPTY = ParallelConfig(pipeline=2, stage_layers=(0, 2))


def toy(parallel: ParallelConfig, seed: int = 1) -> RunConfig:
    """A toy NaViL; ``seed`` sets the initial weights, never the data."""
    data = DataConfig(image_rule="native", multi_scale=True, augment=False)
    run = layouts.toy(RunConfig(model=navil("2b"), data=data))
    return replace(run, seed=seed, model=replace(run.model, layers=2), parallel=parallel)


@pytest.fixture(scope="module")
def saved(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A run whose first stage is the encoder alone, with a checkpoint at half time, and its losses after that."""
    folder = tmp_path_factory.mktemp("stages")
    pool.run(2, jobs.train_and_save, toy(FIRST_EMPTY), folder, HALF)
    return folder, pool.run(2, jobs.train_and_save, toy(FIRST_EMPTY), folder / "straight", WHOLE)[0][HALF:]


@pytest.mark.parametrize(
    "parallel",
    [
        FIRST_EMPTY,
        ParallelConfig(),
        ParallelConfig(pipeline=2, stage_layers=(2, 0)),
        ParallelConfig(pipeline=2, distributed_optimizer=True),
        ParallelConfig(pipeline=2, tensor=2, sequence=True, stage_layers=(0, 2)),
        ParallelConfig(pipeline=2, context=2, distributed_optimizer=True),
    ],
    ids=["same", "one process", "last empty", "planned, PP2 x DP2", "TP2", "CP2"],
)
def test_every_split_goes_on(
    parallel: ParallelConfig, saved: tuple[Path, list[float]], pool: WorkerPool, tmp_path: Path
) -> None:
    folder, expected = saved
    processes = 4 if parallel.distributed_optimizer else parallel.of_copy
    run = toy(parallel, seed=99)
    reached, losses, _ = pool.run(processes, jobs.resume_and_train, run, folder, WHOLE, tmp_path)[0]
    assert reached.step == HALF
    names = [at / f"checkpoints/step-{HALF:08d}" for at in (folder, tmp_path)]
    before, after = (pool.run(1, jobs.tensors, name)[0] for name in names)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert losses == (expected if parallel == FIRST_EMPTY else pytest.approx(expected, rel=1e-6))


def test_what_context_ranks_save_goes_on_in_one_process(
    saved: tuple[Path, list[float]], pool: WorkerPool, tmp_path: Path
) -> None:
    """Moments are sharded over context ranks, weights are theirs alike: each is saved once and whole."""
    folder, expected = saved
    shared = toy(ParallelConfig(context=2, distributed_optimizer=True), seed=99)
    pool.run(2, jobs.resume_and_train, shared, folder, HALF, tmp_path / "shared")
    _, losses, _ = pool.run(
        1, jobs.resume_and_train, toy(ParallelConfig()), tmp_path / "shared", WHOLE, tmp_path / "alone"
    )[0]
    assert losses == pytest.approx(expected, rel=1e-6)
