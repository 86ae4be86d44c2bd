"""Virtual stages on four pipeline ranks give the numbers of one process: a step, and a run saved and taken on."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_nmm.config import DataConfig, ModelConfig, ParallelConfig, RunConfig, SparseConfig
from megatron_nmm.config.check import check
from megatron_nmm.config.presets import navil
from megatron_nmm.config.schema import JournalConfig
from megatron_nmm.generate.scores import read_scores
from megatron_nmm.models.build import build
from megatron_nmm.models.part_sizes import part_sizes
from megatron_nmm.parallel import full_state
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.train.optim import Optimizer
from megatron_nmm.train.telemetry import Telemetry
from megatron_nmm.verify import compare, layouts, synthetic
from megatron_nmm.verify.layouts import Layout
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.checkpoint import jobs

TOLERANCE = 1e-5
"""Largest relative error in fp32, per tensor."""
MODELS = {
    "early fusion, tied": RunConfig(model=ModelConfig(tie_embeddings=True)),
    "sparse": RunConfig(model=ModelConfig(sparse=SparseConfig(experts=4, top_k=2, balance_loss=0.1))),
    "NaViL": RunConfig(model=navil("2b"), data=DataConfig(image_rule="native", multi_scale=True, augment=False)),
}
FOUR = ParallelConfig(pipeline=4, virtual_stages=2)


@pytest.fixture(scope="module", params=MODELS, ids=str)
def reference(request: pytest.FixtureRequest, pool: WorkerPool) -> tuple[RunConfig, compare.State, compare.StepResult]:
    """A toy of eight layers, one full state and its step in one process."""
    run = layouts.toy(MODELS[request.param])
    run = replace(run, model=replace(run.model, layers=8), data=replace(run.data, microbatch=1))
    state = compare.initial_state(pool, run)
    return run, state, compare.reference_step(pool, run, state)


@pytest.mark.parametrize(
    "parallel",
    [
        FOUR,
        replace(FOUR, stage_layers=(0, 1, 2, 1, 1, 1, 1, 1), recompute="full", distributed_optimizer=True),
    ],
    ids=["planned", "uneven, recomputed, sharded"],
)
def test_virtual_stages_equal_one_process(
    parallel: ParallelConfig, reference: tuple[RunConfig, compare.State, compare.StepResult], pool: WorkerPool
) -> None:
    run, state, expected = reference
    changed = replace(run, parallel=parallel)
    assert check(changed, 4) == ()
    layout = Layout("PP4 in two rounds", 4, parallel)
    comparison = compare.compare(expected, compare.step(pool, changed, layout, state), layout)
    assert len(comparison.errors) == len(state)
    assert comparison.passes(TOLERANCE), (comparison.loss_error, comparison.worst)


def _toy(parallel: ParallelConfig, seed: int = 1) -> RunConfig:
    run = layouts.toy(MODELS["NaViL"])
    model, data = replace(run.model, layers=8), replace(run.data, microbatch=1)
    return replace(run, seed=seed, model=model, data=data, parallel=parallel)


@pytest.mark.parametrize("sharded", [False, True], ids=["replicated", "sharded"])
def test_a_run_goes_on_with_virtual_stages_and_without(sharded: bool, pool: WorkerPool, tmp_path: Path) -> None:
    """Saved by one process, taken on by four in two rounds, saved there, taken on by one again."""
    expected = pool.run(1, jobs.train_and_save, _toy(ParallelConfig()), tmp_path / "alone", 2, 4)[0]
    four = replace(FOUR, distributed_optimizer=sharded)
    shutil.rmtree(tmp_path / "alone/checkpoints/step-00000004")
    _, losses, _ = pool.run(4, jobs.resume_and_train, _toy(four, 9), tmp_path / "alone", 4, tmp_path / "four")[0]
    assert losses == pytest.approx(expected[2:], rel=1e-6)
    names = [at / "checkpoints/step-00000002" for at in (tmp_path / "alone", tmp_path / "four")]
    before, after = (pool.run(1, jobs.tensors, name)[0] for name in names)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_validation_and_answers_take_any_number_of_microbatches_and_telemetry_sees_every_layer(
    pool: WorkerPool,
) -> None:
    run = replace(_toy(ParallelConfig()), journal=JournalConfig(telemetry=1))
    state = compare.initial_state(pool, run)
    (expected,) = pool.run(1, _measured, run, state)
    for found in pool.run(4, _measured, replace(run, parallel=FOUR), state):
        assert found[0] == pytest.approx(expected[0], rel=1e-6)
        assert found[1].keys() == expected[1].keys()
        for part, reading in found[1].items():
            assert reading.values == expected[1][part].values
            assert reading.gradient == pytest.approx(expected[1][part].gradient, rel=1e-5)
            assert reading.update == pytest.approx(expected[1][part].update, rel=1e-4)
        assert found[2] == pytest.approx(expected[2], rel=1e-5) and len(found[2]) == 8
        assert found[3] == expected[3]


def _measured(place: Place, run: RunConfig, state: compare.State):  # type: ignore[no-untyped-def]
    """Loss of three microbatches without gradients, a step's parts and features, sizes of parts and next tokens."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        full_state.load(model, state)
        optimizer = Optimizer(run, model, world)
        telemetry = Telemetry(run, model, optimizer, world)
        held_out = synthetic.batches(run, 3, seed=2)
        loss = forward_backward(model, held_out, world, forward_only=True).mean
        at = torch.tensor([40])
        after = read_scores(model, held_out[0], at, lambda scores: scores.argmax(-1).cpu(), at, world)
        with telemetry.watch(1):
            forward_backward(model, synthetic.batches(run, 8, seed=3), world)
        reading = telemetry.read(optimizer.step(1))
        assert reading is not None
        return loss, reading.parts, reading.text, (part_sizes(model, world), after.tolist())
