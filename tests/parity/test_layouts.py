"""Every parallel layout gives the numbers of one process: loss and every gradient."""

from dataclasses import replace

import pytest

from megatron_nmm.config import DataConfig, ModelConfig, RunConfig
from megatron_nmm.verify import compare, layouts
from megatron_nmm.verify.layouts import DENSE, LAYOUTS, Layout
from megatron_nmm.verify.workers import WorkerPool

TOLERANCE = 1e-5
"""Largest relative error in fp32, per tensor."""

MODELS = {
    "early fusion": RunConfig(),
    "grouped queries, tied, causal images": RunConfig(
        model=ModelConfig(query_groups=8, tie_embeddings=True, image_mask="causal")
    ),
    "modality experts, special embeddings": RunConfig(
        model=ModelConfig(modality_experts="all", query_groups=8, special_embeddings=True),
        data=DataConfig(image_rule="native"),
    ),
}


@pytest.fixture(scope="module", params=MODELS, ids=str)
def reference(request: pytest.FixtureRequest, pool: WorkerPool) -> tuple[RunConfig, compare.State, compare.StepResult]:
    """A toy run, one full state and its step in one process."""
    run = layouts.toy(MODELS[request.param])
    state = compare.initial_state(pool, run)
    return run, state, compare.reference_step(pool, run, state)


@pytest.mark.parametrize("layout", DENSE, ids=lambda layout: layout.name)
def test_layout_equals_one_process(
    layout: Layout, reference: tuple[RunConfig, compare.State, compare.StepResult], pool: WorkerPool
) -> None:
    run, state, expected = reference
    result = compare.step(pool, replace(run, parallel=layout.parallel), layout, state)
    comparison = compare.compare(expected, result, layout)
    assert len(comparison.errors) == len(state)
    assert comparison.passes(TOLERANCE), (comparison.loss_error, comparison.worst)


@pytest.mark.parametrize(
    ("fault", "number", "named"),
    [("norm gradients", 0, "q_layernorm"), ("row output", 0, "layernorm"), ("data gradients", 3, "layernorm")],
)
def test_a_missing_collective_turns_the_comparison_red(
    fault: str,
    number: int,
    named: str,
    reference: tuple[RunConfig, compare.State, compare.StepResult],
    pool: WorkerPool,
) -> None:
    run, state, expected = reference
    layout = LAYOUTS[number]
    result = compare.step(pool, replace(run, parallel=layout.parallel), layout, state, fault)
    comparison = compare.compare(expected, result, layout)
    wrong = [name for name, error in comparison.errors.items() if error > TOLERANCE]
    assert not comparison.passes(TOLERANCE)
    assert any(named in name for name in wrong)
    if fault == "norm gradients":
        assert all("q_layernorm" in name or "k_layernorm" in name for name in wrong)


@pytest.mark.parametrize(("microbatch", "processes"), [(1, 1), (4, 1), (8, 1), (1, 2), (4, 2)])
def test_gradients_do_not_depend_on_the_microbatch_split(microbatch: int, processes: int, pool: WorkerPool) -> None:
    run = layouts.toy(RunConfig())
    state = compare.initial_state(pool, run)
    results = [
        pool.run(size, _split_step, replace(run, data=replace(run.data, microbatch=rows)), state)[0]
        for rows, size in ((2, 1), (microbatch, processes))
    ]
    comparison = compare.compare(*results, LAYOUTS[3])
    assert comparison.passes(TOLERANCE), comparison.worst


def _split_step(place, run: RunConfig, state: compare.State):  # type: ignore[no-untyped-def]
    """A step over the same eight rows whatever the microbatch: single rows joined as the run asks."""
    from megatron_nmm.models.build import build
    from megatron_nmm.parallel import full_state
    from megatron_nmm.parallel.schedule import forward_backward
    from megatron_nmm.verify import synthetic
    from tests.parity.rows import join

    with place.world(run.parallel, run.seed) as world:
        model = build(run, world)
        full_state.load(model, state)
        rows = synthetic.batches(replace(run, data=replace(run.data, microbatch=1)), 8, seed=3, sources=2)
        share = 8 // world.data_size
        mine = rows[world.data_rank * share : (world.data_rank + 1) * share]
        step = run.data.microbatch
        joined = [join(mine[i : i + step]) for i in range(0, share, step)]
        sums = forward_backward(model, joined, world, sources=2)
        gradients = full_state.gather(model, world, full_state.gradient)
    return compare.StepResult(sums.mean, gradients) if gradients is not None else None
