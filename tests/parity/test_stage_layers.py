"""Uneven pipeline stages, a first or last one without decoder layers among them, give the numbers of one process."""

from dataclasses import replace

import pytest

from megatron_nmm.config import DataConfig, ParallelConfig, RunConfig
from megatron_nmm.config.presets import late_fusion, navil
from megatron_nmm.verify import compare, layouts
from megatron_nmm.verify.layouts import Layout
from megatron_nmm.verify.workers import WorkerPool

TOLERANCE = 1e-5
"""Largest relative error in fp32, per tensor."""

LATE = RunConfig(model=late_fusion("0.289b"))
NAVIL = RunConfig(model=navil("2b"), data=DataConfig(image_rule="native", multi_scale=True, augment=False))


@pytest.fixture(scope="module", params=[LATE, NAVIL], ids=["late fusion", "NaViL"])
def reference(request: pytest.FixtureRequest, pool: WorkerPool) -> tuple[RunConfig, compare.State, compare.StepResult]:
    """A toy run, one full state and its step in one process."""
    run = layouts.toy(request.param)
    state = compare.initial_state(pool, run)
    return run, state, compare.reference_step(pool, run, state)


@pytest.mark.parametrize(
    "parallel",
    [
        ParallelConfig(pipeline=2, stage_layers=(1, 3)),
        ParallelConfig(pipeline=2, stage_layers=(0, 4)),
        ParallelConfig(pipeline=2, stage_layers=(4, 0)),
        ParallelConfig(pipeline=4, stage_layers=(0, 3, 1, 0)),
        ParallelConfig(pipeline=2, tensor=2, sequence=True, stage_layers=(0, 4)),
    ],
    ids=lambda parallel: f"TP{parallel.tensor}, {list(parallel.stage_layers)}",
)
def test_uneven_stages_equal_one_process(
    parallel: ParallelConfig, reference: tuple[RunConfig, compare.State, compare.StepResult], pool: WorkerPool
) -> None:
    run, state, expected = reference
    layout = Layout("uneven", parallel.tensor * parallel.pipeline, parallel)
    result = compare.step(pool, replace(run, parallel=parallel), layout, state)
    comparison = compare.compare(expected, result, layout)
    assert len(comparison.errors) == len(state)
    assert comparison.passes(TOLERANCE), (comparison.loss_error, comparison.worst)
