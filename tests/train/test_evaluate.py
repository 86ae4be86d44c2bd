"""Validation reads the same packs in every layout, weighs padding nothing and leaves the model as it was."""

from dataclasses import replace

import pytest
import torch

from megatron_nmm.config import EvaluateConfig, ParallelConfig, RunConfig, SourceConfig
from megatron_nmm.data.held_out import HeldOut
from megatron_nmm.models.build import build
from megatron_nmm.parallel import full_state
from megatron_nmm.train.evaluate import Validation, evaluate
from megatron_nmm.verify import compare
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.train.runs import tiny_run


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, pool: WorkerPool) -> tuple[RunConfig, compare.State]:
    """A run validated on three packs of one source (an odd number: ranks and microbatches are padded) and one state."""
    folder = tmp_path_factory.mktemp("evaluate")
    sources = (SourceConfig(str(folder / "books")), SourceConfig(str(folder / "web")))
    run = tiny_run(folder, evaluate=EvaluateConfig(sources=sources, packs=3))
    return run, compare.initial_state(pool, run)


def test_every_layout_validates_alike(case: tuple[RunConfig, compare.State], pool: WorkerPool) -> None:
    run, state = case
    (expected,) = pool.run(1, _evaluate, run, state)
    assert expected.sources == ("books", "web")
    assert all(expected.sums.tokens.sum((0, 1)) > 0)
    assert expected.mean == pytest.approx(sum(expected.sums.by_source()) / 2)
    layouts = ParallelConfig(), ParallelConfig(tensor=2), ParallelConfig(pipeline=2), ParallelConfig(context=2)
    for parallel in layouts:
        for found in pool.run(2, _evaluate, replace(run, parallel=parallel), state):
            torch.testing.assert_close(found.sums.tokens, expected.sums.tokens, rtol=0, atol=0)
            torch.testing.assert_close(found.sums.loss, expected.sums.loss, rtol=1e-6, atol=1e-6)


def test_one_pack_more_changes_the_sums(case: tuple[RunConfig, compare.State], pool: WorkerPool) -> None:
    run, state = case
    fewer = replace(run, evaluate=replace(run.evaluate, packs=2))
    (three,), (two,) = (pool.run(1, _evaluate, r, state) for r in (run, fewer))
    assert three.sums.tokens.sum() > two.sums.tokens.sum()


def _evaluate(place: Place, run: RunConfig, state: compare.State) -> Validation:
    """Evaluate twice: the second time must find the same, and the model in training mode with its gradients."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        full_state.load(model, state)
        for param in model.parameters():
            param.main_grad.fill_(3.0)
        held_out = HeldOut(run, world.data_rank, world.data_size)
        first, second = evaluate(model, held_out, world), evaluate(model, held_out, world)
        assert torch.equal(first.sums.loss, second.sums.loss)
        assert model.training
        assert all(bool((param.main_grad == 3.0).all()) for param in model.parameters())
        return second
