"""Context parallelism beyond the grid: more ranks, recomputation, rows of 8,192 tokens, and the memory it saves."""

from dataclasses import replace

import pytest

from megatron_nmm.config import DataConfig, ParallelConfig, RunConfig
from megatron_nmm.config.presets import navil
from megatron_nmm.verify import compare, layouts
from megatron_nmm.verify.layouts import Layout
from megatron_nmm.verify.workers import WorkerPool
from tests.parity.long_rows import long_run, step_and_kept

TOLERANCE = 1e-5
"""Largest relative error in fp32, per tensor."""
NAVIL = RunConfig(model=navil("2b"), data=DataConfig(image_rule="native", multi_scale=True, augment=False))
Reference = tuple[RunConfig, compare.State, compare.StepResult]


@pytest.fixture(scope="module")
def reference(pool: WorkerPool) -> Reference:
    """A toy NaViL, one full state and its step in one process."""
    run = layouts.toy(NAVIL)
    state = compare.initial_state(pool, run)
    return run, state, compare.reference_step(pool, run, state)


def compared(pool: WorkerPool, reference: Reference, parallel: ParallelConfig, fault: str | None = None):  # type: ignore[no-untyped-def]
    """A step in a layout of one copy against the reference."""
    run, state, expected = reference
    layout = Layout("context", parallel.of_copy, parallel)
    result = compare.step(pool, replace(run, parallel=parallel), layout, state, fault)
    return compare.compare(expected, result, layout)


@pytest.mark.parametrize(
    "parallel",
    [
        ParallelConfig(context=4),
        ParallelConfig(context=2, tensor=2),
        ParallelConfig(context=2, recompute="full"),
        ParallelConfig(context=2, recompute="selective"),
        ParallelConfig(tensor=2, sequence=True, recompute="selective"),
    ],
    ids=["CP4", "CP2xTP2", "CP2+recompute", "CP2+selective recompute", "TP2+SP+selective recompute"],
)
def test_layout_equals_one_process(parallel: ParallelConfig, reference: Reference, pool: WorkerPool) -> None:
    comparison = compared(pool, reference, parallel)
    assert len(comparison.errors) == len(reference[1])
    assert comparison.passes(TOLERANCE), (comparison.loss_error, comparison.worst)


def test_keys_that_miss_the_other_ranks_queries_turn_the_comparison_red(reference: Reference, pool: WorkerPool) -> None:
    errors = compared(pool, reference, ParallelConfig(context=2), "key gradients").errors
    wrong = {name for name, error in errors.items() if error > TOLERANCE}
    assert "decoder.layers.3.self_attention.linear_qkv.weight" in wrong
    behind = ("decoder.layers.3.self_attention.linear_proj", "decoder.layers.3.mlp", "output_layer")
    assert not any(name.startswith(behind) for name in wrong)


LENGTH, DOCUMENTS = 8192, (5000, 2900)


@pytest.fixture(scope="module")
def long_reference(pool: WorkerPool) -> tuple[RunConfig, compare.State, dict[str, tuple[compare.StepResult, int]]]:
    """A model, one full state, and its step over a row of 8,192 tokens in one process, by recomputation."""
    run = long_run(LENGTH)
    state = compare.initial_state(pool, run)
    steps = {
        mode: pool.run(1, step_and_kept, replace(run, parallel=ParallelConfig(recompute=mode)), state, DOCUMENTS)[0]  # type: ignore[arg-type]
        for mode in ("none", "selective")
    }
    return run, state, steps


@pytest.mark.parametrize("recompute", ["none", "selective"])
def test_8192_tokens_on_two_ranks_equal_one_and_keep_half(
    recompute: str,
    long_reference: tuple[RunConfig, compare.State, dict[str, tuple[compare.StepResult, int]]],
    pool: WorkerPool,
) -> None:
    run, state, steps = long_reference
    expected, alone = steps[recompute]
    parallel = ParallelConfig(context=2, recompute=recompute)  # type: ignore[arg-type]
    ranks = pool.run(2, step_and_kept, replace(run, parallel=parallel), state, DOCUMENTS)
    comparison = compare.compare(expected, ranks[0][0], Layout("CP2", 2, parallel))
    assert len(comparison.errors) == len(state)
    assert comparison.passes(TOLERANCE), (comparison.loss_error, comparison.worst)
    shares = [kept / alone for _, kept in ranks]
    assert max(shares) < 0.55, shares
