"""One step's microbatches: a rank without images does what the others do, and forward_only leaves no trace."""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch.distributed.tensor.debug import CommDebugMode

from megatron_nmm.config import ParallelConfig, RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.build import build
from megatron_nmm.parallel import full_state
from megatron_nmm.parallel.losses import LossSums
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.verify import compare, layouts, synthetic
from megatron_nmm.verify.workers import Place, WorkerPool

RUN = layouts.toy(RunConfig())
LIMIT_S = 60.0
"""A rank that waits for a collective the other never enters must not hang the suite."""


class Step(NamedTuple):
    """What a rank did in one step."""

    sums: LossSums
    gradients: compare.State | None
    stem: list[torch.Tensor]
    """Gradients that reached the patch stem's weight, one a microbatch."""
    collectives: dict[str, int]
    """Name -> calls."""


def _step(place: Place, run: RunConfig, state: compare.State, batches: list[list[Batch]]) -> Step:
    """One step over this rank's share of ``batches``, one list per data rank."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        full_state.load(model, state)
        stem: list[torch.Tensor] = []
        model.module.patch_stem.linear.weight.register_hook(  # type: ignore[union-attr]
            lambda grad: stem.append(grad.clone())
        )
        with CommDebugMode() as seen:
            sums = forward_backward(model, batches[world.data_rank], world)
        gradients = full_state.gather(model, world, full_state.gradient)
        return Step(sums, gradients, stem, {str(name): n for name, n in seen.get_comm_counts().items()})


@pytest.fixture(scope="module")
def state(pool: WorkerPool) -> compare.State:
    """One full set of weights."""
    return compare.initial_state(pool, RUN)


@pytest.fixture(scope="module")
def batches() -> tuple[list[Batch], list[Batch]]:
    """Microbatches of pictures and text, and microbatches of text alone."""
    return synthetic.batches(RUN, 2, seed=1), synthetic.batches(RUN, 2, seed=2, images=False)


def test_a_rank_without_images_equals_one_process(
    pool: WorkerPool, state: compare.State, batches: tuple[list[Batch], list[Batch]]
) -> None:
    pictures, text = batches
    assert len(pictures[0].patches) > 0 and len(text[0].patches) == 0
    parallel = ParallelConfig(time_limit_s=LIMIT_S / 2)
    run = replace(RUN, parallel=parallel)
    with_images, without = pool.run(2, _step, run, state, [pictures, text], time_limit_s=LIMIT_S)
    (alone,) = pool.run(1, _step, run, state, [pictures + text])
    assert with_images.collectives == without.collectives
    assert with_images.gradients is not None and alone.gradients is not None
    assert sum(with_images.collectives.values()) > 0
    for name, expected in alone.gradients.items():
        error = (with_images.gradients[name] - expected).abs().max() / expected.abs().max()
        assert error <= 1e-5, name
    assert alone.gradients["patch_stem.linear.weight"].any()
    for rank in (with_images, without):
        assert rank.sums.mean == pytest.approx(alone.sums.mean, rel=1e-6)
        assert torch.equal(rank.sums.tokens, alone.sums.tokens)


def test_text_gives_the_patch_stem_a_zero_gradient_not_a_missing_one(
    pool: WorkerPool, state: compare.State, batches: tuple[list[Batch], list[Batch]]
) -> None:
    (step,) = pool.run(1, _step, RUN, state, [batches[1]])
    assert len(step.stem) == len(batches[1])
    assert not any(grad.any() for grad in step.stem)
    assert step.gradients is not None
    assert not step.gradients["patch_stem.linear.weight"].any() and not step.gradients["patch_stem.linear.bias"].any()


class Validated(NamedTuple):
    """What a forward pass alone did to a rank."""

    sums: LossSums
    graphs: list[bool]
    """Whether the output of each forward pass carried a graph."""
    untouched: bool
    grad_enabled: bool
    """Whether gradients are computed again afterwards."""


def _validate(place: Place, run: RunConfig, state: compare.State, batches: list[Batch]) -> Validated:
    with place.world(run.parallel) as world:
        model = build(run, world)
        full_state.load(model, state)
        for parameter in model.parameters():
            parameter.main_grad.fill_(3.0)  # type: ignore[attr-defined]
        graphs: list[bool] = []
        model.module.register_forward_hook(  # type: ignore[union-attr]
            lambda module, inputs, out: graphs.append(out.requires_grad or out.grad_fn is not None)
        )
        sums = forward_backward(model, batches, world, forward_only=True)
        untouched = all(
            parameter.grad is None and bool((parameter.main_grad == 3.0).all())  # type: ignore[attr-defined]
            for parameter in model.parameters()
        )
        return Validated(sums, graphs, untouched, torch.is_grad_enabled())


@pytest.mark.parametrize(
    "parallel", [ParallelConfig(), ParallelConfig(tensor=2), ParallelConfig(pipeline=2)], ids=["1", "TP2", "PP2"]
)
def test_forward_only_builds_no_graph_and_leaves_gradients_alone(
    parallel: ParallelConfig, pool: WorkerPool, state: compare.State, batches: tuple[list[Batch], list[Batch]]
) -> None:
    pictures, text = batches
    size = parallel.tensor * parallel.pipeline
    (trained,) = pool.run(1, _step, RUN, state, [pictures + text])
    for rank in pool.run(size, _validate, replace(RUN, parallel=parallel), state, pictures + text):
        assert rank.graphs == [False] * 4
        assert rank.untouched and rank.grad_enabled
        torch.testing.assert_close(rank.sums.loss, trained.sums.loss, rtol=1e-6, atol=1e-6)
        assert torch.equal(rank.sums.tokens, trained.sums.tokens)
