"""Models with sparse experts give the numbers of one process in every layout, router gradients included."""

from dataclasses import replace

import pytest

from megatron_nmm.config import ModelConfig, ParallelConfig, RunConfig, SparseConfig
from megatron_nmm.config.schema import Dispatcher
from megatron_nmm.config.schema_model import VisionConfig
from megatron_nmm.verify import compare, layouts
from megatron_nmm.verify.layouts import LAYOUTS, Layout
from megatron_nmm.verify.workers import WorkerPool

TOLERANCE = 1e-5
"""Largest relative error in fp32, per tensor."""
MODELS = {
    "P1's, top-1": RunConfig(model=ModelConfig(sparse=SparseConfig(experts=8, balance_loss=0.1))),
    "top-2 of fine-grained experts, late fusion, a dense layer, by row": RunConfig(
        model=ModelConfig(
            vision=VisionConfig(depth=12),
            sparse=SparseConfig(
                experts=8,
                top_k=2,
                ffn=1152,
                normalise=True,
                dense_layers=(0,),
                balance_loss=0.1,
                balance_over="row",
                z_loss=0.05,
            ),
        )
    ),
}
SPARSE = tuple(layout for layout in LAYOUTS if layout.parallel.tensor == 1 or layout.parallel.sequence)
"""Tensor ranks that hold the same tokens are refused."""
Reference = tuple[RunConfig, compare.State, compare.StepResult]


@pytest.fixture(scope="module", params=MODELS, ids=str)
def reference(request: pytest.FixtureRequest, pool: WorkerPool) -> Reference:
    """A toy run, one full state and its step in one process."""
    run = layouts.toy(MODELS[request.param])
    state = compare.initial_state(pool, run)
    return run, state, compare.reference_step(pool, run, state)


def compared(pool: WorkerPool, reference: Reference, layout: Layout, fault: str | None = None) -> compare.Comparison:
    """A step in ``layout`` against the reference."""
    run, state, expected = reference
    return compare.compare(
        expected, compare.step(pool, replace(run, parallel=layout.parallel), layout, state, fault), layout
    )


def test_the_configuration_check_accepts_the_layouts(reference: Reference) -> None:
    assert [layout for layout, _ in layouts.legal(reference[0], 4)] == list(SPARSE)


@pytest.mark.parametrize("layout", SPARSE, ids=lambda layout: layout.name)
def test_layout_equals_one_process(layout: Layout, reference: Reference, pool: WorkerPool) -> None:
    comparison = compared(pool, reference, layout)
    assert {name for name in comparison.errors if "router" in name} and len(comparison.errors) == len(reference[1])
    assert comparison.passes(TOLERANCE), (comparison.loss_error, comparison.worst)


@pytest.mark.parametrize("dispatcher", ["alltoall", "allgather"])
def test_megatron_cores_dispatchers_equal_ours(dispatcher: Dispatcher, reference: Reference, pool: WorkerPool) -> None:
    parallel = ParallelConfig(expert=2, dispatcher=dispatcher)
    comparison = compared(pool, reference, Layout(dispatcher, 2, parallel))
    assert comparison.passes(TOLERANCE), (comparison.loss_error, comparison.worst)


def test_a_missing_sum_over_replicas_turns_the_comparison_red(reference: Reference, pool: WorkerPool) -> None:
    layout = next(layout for layout in LAYOUTS if layout.name == "EP2xDP2")
    errors = compared(pool, reference, layout, "data gradients").errors
    wrong = {name for name, error in errors.items() if error > TOLERANCE}
    assert any("experts" in name for name in wrong) and any("router" in name for name in wrong)


def test_padding_doubled_changes_nothing(reference: Reference, pool: WorkerPool) -> None:
    from tests.parity.padded import step_with_padding

    run, state, _ = reference
    plain, padded = (pool.run(1, step_with_padding, run, state, extra)[0] for extra in (0, run.data.sequence_length))
    comparison = compare.compare(plain, padded, layouts.SINGLE)
    assert comparison.passes(TOLERANCE), (comparison.loss_error, comparison.worst)


def test_the_split_into_microbatches_changes_nothing_when_rows_are_balanced(pool: WorkerPool) -> None:
    run = layouts.toy(MODELS["top-2 of fine-grained experts, late fusion, a dense layer, by row"])
    state = compare.initial_state(pool, run)
    from tests.parity.test_layouts import _split_step

    results = [
        pool.run(1, _split_step, replace(run, data=replace(run.data, microbatch=rows)), state)[0] for rows in (1, 4)
    ]
    comparison = compare.compare(*results, layouts.SINGLE)
    assert comparison.passes(TOLERANCE), (comparison.loss_error, comparison.worst)
