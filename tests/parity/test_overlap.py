"""Gradients reduced during the backward pass and weights gathered during the forward pass are those of one process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_nmm.config import DataConfig, ModelConfig, ParallelConfig, PrecisionConfig, RunConfig, SparseConfig
from megatron_nmm.config.presets import navil
from megatron_nmm.config.schema import ScheduleConfig
from megatron_nmm.models.build import build
from megatron_nmm.parallel import full_state, wrap
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.train.optim import Optimizer
from megatron_nmm.verify import compare, layouts, synthetic
from megatron_nmm.verify.layouts import Layout
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.checkpoint import jobs

TOLERANCE = 1e-5
"""Largest relative error in fp32, per tensor."""
BUCKET = 10_000
"""Values; the toys have several hundred thousand."""
MODELS = {
    "NaViL, tied": RunConfig(
        model=replace(navil("2b"), tie_embeddings=True),
        data=DataConfig(image_rule="native", multi_scale=True, augment=False),
    ),
    "sparse": RunConfig(model=ModelConfig(sparse=SparseConfig(experts=4, balance_loss=0.1))),
}
LAYOUTS = (
    Layout("DP2", 2, ParallelConfig(overlap_gradients=True)),
    Layout("DP2+distributed optimizer", 2, ParallelConfig(overlap_gradients=True, distributed_optimizer=True)),
    Layout("CP2xPP2", 4, ParallelConfig(overlap_gradients=True, context=2, pipeline=2, distributed_optimizer=True)),
)
AT_ONCE = ScheduleConfig(kind="constant", warmup=0)
"""Steps large enough to tell weights before from weights after one."""
GATHERED = ParallelConfig(distributed_optimizer=True, overlap_gradients=True, overlap_weights=True)
Step = tuple[compare.StepResult | None, int, int]
"""What a step gave, buckets of the rank, and those of them whose reduction began before the schedule asked for it."""


@contextmanager
def small_buckets() -> Iterator[None]:
    """Buckets that a toy fills several of."""
    before = wrap.SMALLEST_BUCKET, wrap.BUCKET_PER_RANK
    wrap.SMALLEST_BUCKET, wrap.BUCKET_PER_RANK = BUCKET, 0
    try:
        yield
    finally:
        wrap.SMALLEST_BUCKET, wrap.BUCKET_PER_RANK = before


def _step(place: Place, run: RunConfig, state: compare.State, steps: int) -> Step:
    """The last of ``steps`` over the same batches."""
    with small_buckets(), place.world(run.parallel, run.seed) as world:
        model: Any = build(run, world)
        full_state.load(model, state)
        groups = model.bucket_groups + model.expert_parallel_bucket_groups
        early: list[int] = []
        original = model.finish_grad_sync

        def finish(*arguments: Any, **settings: Any) -> None:
            early.append(sum(group.grad_reduce_handle is not None for group in groups))
            original(*arguments, **settings)

        model.finish_grad_sync = finish
        rows = synthetic.batches(run, 4, run.seed, sources=2)
        share = len(rows) // world.data_size
        for _ in range(steps):
            sums = forward_backward(model, rows[world.data_rank * share :][:share], world, sources=2)
        if run.parallel.distributed_optimizer:
            full_state.complete_gradients(model, world)
        gradients = full_state.gather(model, world, full_state.gradient)
    return (None if gradients is None else compare.StepResult(sums.mean, gradients)), len(groups), early[-1]


def _in_small_buckets(place: Place, job: Callable[..., Any], *arguments: Any) -> Any:
    with small_buckets():
        return job(place, *arguments)


@pytest.fixture(scope="module", params=MODELS, ids=str)
def reference(request: pytest.FixtureRequest, pool: WorkerPool) -> tuple[RunConfig, compare.State, compare.StepResult]:
    """A toy run, one full state and its step in one process."""
    run = layouts.toy(MODELS[request.param])
    state = compare.initial_state(pool, run)
    return run, state, pool.run(1, _step, run, state, 1)[0][0]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_reduced_on_the_way_they_are_the_same(
    layout: Layout, reference: tuple[RunConfig, compare.State, compare.StepResult], pool: WorkerPool
) -> None:
    run, state, expected = reference
    results: list[Step] = pool.run(layout.processes, _step, replace(run, parallel=layout.parallel), state, 2)
    assert results[0][0] is not None
    comparison = compare.compare(expected, results[0][0], layout)
    assert len(comparison.errors) == len(state)
    assert comparison.passes(TOLERANCE), (comparison.loss_error, comparison.worst)
    assert results[0][1] > 2, "the first stage has several"
    for _, buckets, early in results:
        assert early == buckets, "every bucket was on its way before the step's end"


def _train(place: Place, run: RunConfig, state: compare.State, steps: int) -> tuple[list[float], compare.State | None]:
    """Losses of ``steps`` and of a validation after the first, and the weights at the end."""
    with small_buckets(), place.world(run.parallel, run.seed) as world:
        model = build(run, world)
        full_state.load(model, state)
        optimizer = Optimizer(run, model, world)
        losses = []
        for step in range(1, steps + 1):
            rows = synthetic.batches(run, 4, step, sources=2)
            share = len(rows) // world.data_size
            mine = rows[world.data_rank * share :][:share]
            losses.append(forward_backward(model, mine, world, sources=2).mean)
            optimizer.step(step)
            if step == 1:
                losses.append(forward_backward(model, mine, world, sources=2, forward_only=True).mean)
        return losses, full_state.gather(model, world)


def test_weights_gathered_on_the_way_are_the_same(
    reference: tuple[RunConfig, compare.State, compare.StepResult], pool: WorkerPool
) -> None:
    """Read after a step, by a validation and by the next step."""
    run, state, _ = reference
    run = replace(run, schedule=AT_ONCE)
    expected, weights = pool.run(1, _train, run, state, 3)[0]
    losses, gathered = pool.run(2, _train, replace(run, parallel=GATHERED), state, 3)[0]
    assert losses == pytest.approx(expected, rel=1e-5)
    for name, value in weights.items():
        assert (gathered[name] - value).norm() <= 1e-2 * (value - state[name]).norm(), name


def test_emulated_experts_wait_for_gathered_weights(pool: WorkerPool) -> None:
    """Against the same layout with weights gathered after the step: other layouts round other gradients to 8 bits."""
    run = layouts.toy(replace(MODELS["sparse"], precision=PrecisionConfig(recipe="fp8_current")))
    run = replace(run, schedule=AT_ONCE)
    state = compare.initial_state(pool, run)
    expected, weights = pool.run(2, _train, replace(run, parallel=LAYOUTS[1].parallel), state, 3)[0]
    losses, gathered = pool.run(2, _train, replace(run, parallel=GATHERED), state, 3)[0]
    assert losses == expected
    assert all(torch.equal(gathered[name], value) for name, value in weights.items())


@pytest.mark.parametrize("parallel", [LAYOUTS[1].parallel, GATHERED], ids=["gradients", "weights too"])
def test_state_of_many_buckets_goes_on_in_one_process(
    parallel: ParallelConfig, pool: WorkerPool, tmp_path: Path
) -> None:
    run = replace(jobs.toy(Layout("alone", 1, ParallelConfig())), schedule=AT_ONCE)
    expected = pool.run(1, jobs.train_and_save, run, tmp_path / "alone", 4)[0]
    shared = replace(run, parallel=parallel)
    losses = pool.run(2, _in_small_buckets, jobs.train_and_save, shared, tmp_path / "shared", 2)[0]
    losses += pool.run(1, jobs.resume_and_train, run, tmp_path / "shared", 4, tmp_path / "on")[0][1]
    assert losses == pytest.approx(expected, rel=1e-6)
