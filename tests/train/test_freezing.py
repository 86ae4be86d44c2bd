"""Frozen parts on the real model: they stand still, cost no state, and the rest learns as it would in one process."""

from dataclasses import replace

import pytest
import torch

from megatron_nmm.config import ParallelConfig, RatesConfig, RunConfig
from megatron_nmm.models.parts import part_of
from megatron_nmm.verify import compare
from megatron_nmm.verify.layouts import LAYOUTS, SINGLE, Layout
from megatron_nmm.verify.workers import WorkerPool
from tests.train.stages import Trained, gradients_of_stages, only, take_steps, toy

VISION, OUTPUT, ATTENTION, MOST = STAGES = {
    "vision alone: nothing trains on the last pipeline stage": only("vision"),
    "output alone: nothing trains on the first pipeline stage": only("output"),
    "attention alone: nothing below the layers takes gradients": only("attention"),
    "all but norms and embeddings": replace(RatesConfig(), norms=0.0, embeddings=0.0),
}
PLACES = {layout.name: layout for layout in LAYOUTS}
SHARDED_STAGES = "PP2xDP2+distributed optimizer"
PLACES[SHARDED_STAGES] = Layout(SHARDED_STAGES, 4, ParallelConfig(pipeline=2, distributed_optimizer=True))
CASES = [
    (VISION, "TP2+SP"),
    (VISION, "PP2"),
    (VISION, SHARDED_STAGES),
    (OUTPUT, "PP2"),
    (OUTPUT, SHARDED_STAGES),
    (ATTENTION, "TP2+SP"),
    (ATTENTION, "TP2+recompute"),
    (ATTENTION, "DP2+distributed optimizer"),
    (ATTENTION, "CP2"),
    (MOST, "TP2xPP2+SP"),
    (MOST, "TP2xDP2+SP+distributed optimizer"),
]


@pytest.fixture(scope="module")
def start(pool: WorkerPool) -> compare.State:
    """Weights that every run here begins with."""
    return compare.initial_state(pool, toy(RatesConfig()))


@pytest.fixture(scope="module")
def alone(start: compare.State, pool: WorkerPool) -> dict[str, tuple[RunConfig, Trained]]:
    """Every stage in one process."""
    runs = {name: toy(rates) for name, rates in STAGES.items()}
    return {name: (run, pool.run(1, take_steps, run, start)[0]) for name, run in runs.items()}


def _expected_parts(run: RunConfig, state: compare.State) -> frozenset[str]:
    return frozenset(part_of(name) for name in state if getattr(run.optim.rates, part_of(name)))


@pytest.mark.parametrize("stage", STAGES)
def test_frozen_weights_stand_still_and_the_others_move(
    stage: str, alone: dict[str, tuple[RunConfig, Trained]], start: compare.State
) -> None:
    run, after = alone[stage]
    assert after.weights is not None and after.weights.keys() == start.keys()
    for name, value in after.weights.items():
        frozen = getattr(run.optim.rates, part_of(name)) == 0.0
        assert torch.equal(value, start[name]) == frozen, name


@pytest.mark.parametrize("stage", STAGES)
def test_state_and_gradients_exist_for_what_trains_alone(
    stage: str, alone: dict[str, tuple[RunConfig, Trained]], start: compare.State
) -> None:
    run, after = alone[stage]
    values = sum(value.numel() for name, value in start.items() if part_of(name) in _expected_parts(run, start))
    assert after.trained == _expected_parts(run, start)
    assert after.trained_values == values < sum(value.numel() for value in start.values())
    assert (after.moment_bytes, after.gradient_bytes) == (2 * 4 * values, 4 * values)


@pytest.mark.parametrize(("stage", "place"), CASES)
def test_a_stage_learns_in_every_layout_what_it_learns_in_one_process(
    stage: str, place: str, alone: dict[str, tuple[RunConfig, Trained]], start: compare.State, pool: WorkerPool
) -> None:
    (run, expected), layout = alone[stage], PLACES[place]
    ranks = pool.run(layout.processes, take_steps, replace(run, parallel=layout.parallel), start)
    assert expected.weights is not None and ranks[0].weights is not None
    for name, value in expected.weights.items():
        if getattr(run.optim.rates, part_of(name)):
            torch.testing.assert_close(ranks[0].weights[name], value, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(ranks[0].weights[name], value), name
    for rank in ranks:
        assert rank.norms == pytest.approx(expected.norms, rel=1e-5)
        if not layout.parallel.distributed_optimizer:
            assert rank.moment_bytes == 2 * rank.gradient_bytes == 8 * rank.trained_values
    assert frozenset.union(*(rank.trained for rank in ranks)) == expected.trained
    if layout.parallel.distributed_optimizer and layout.parallel.tensor == 1:
        assert sum(rank.moment_bytes for rank in ranks) == expected.moment_bytes


@pytest.mark.parametrize("sharded", [False, True], ids=["replicated", "sharded"])
def test_bf16_keeps_masters_of_what_trains_alone(sharded: bool, start: compare.State, pool: WorkerPool) -> None:
    run = replace(toy(only("ffn"), "bf16"), parallel=ParallelConfig(distributed_optimizer=sharded))
    ranks = pool.run(2, take_steps, run, start)
    values = sum(value.numel() for name, value in start.items() if part_of(name) == "ffn")
    held = sum(rank.masters for rank in ranks)
    assert held == (values if sharded else 2 * values)
    assert sum(rank.moment_bytes for rank in ranks) == 8 * held
    assert ranks[0].weights is not None
    for name, value in ranks[0].weights.items():
        assert torch.equal(value, start[name].bfloat16().float()) == (part_of(name) != "ffn"), name


@pytest.mark.parametrize("pipeline", [1, 2])
def test_a_frozen_table_that_is_tied_stands_still_on_both_ends(
    pipeline: int, start: compare.State, pool: WorkerPool
) -> None:
    """``rates.output`` is not read where the output layer is the embedding table."""
    run = toy(replace(RatesConfig(), embeddings=0.0), tie_embeddings=True)
    state = {name: value for name, value in start.items() if not name.startswith("output_layer.")}
    run = replace(run, parallel=ParallelConfig(pipeline=pipeline, time_limit_s=60.0))
    ranks = pool.run(pipeline, take_steps, run, state)
    assert ranks[0].weights is not None and "output_layer.weight" not in ranks[0].weights
    changed = {part_of(name) for name, value in ranks[0].weights.items() if not torch.equal(value, state[name])}
    assert changed == {"vision", "attention", "ffn", "norms"}
    assert not any({"embeddings", "output"} & rank.trained for rank in ranks)


@pytest.mark.parametrize(
    ("layout", "recompute"),
    [
        (SINGLE, "none"),
        (SINGLE, "full"),
        (PLACES["TP2+SP"], "full"),
        (PLACES["PP2"], "full"),
        (PLACES["CP2"], "selective"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_freezing_changes_no_gradient_of_what_trains(
    layout: Layout, recompute: str, start: compare.State, pool: WorkerPool
) -> None:
    """Recomputed layers above frozen embeddings are where torch would drop gradients without a word."""
    parallel = replace(layout.parallel, recompute=recompute)  # type: ignore[arg-type]
    runs = [replace(toy(rates), parallel=parallel) for rates in (RatesConfig(), only("attention", "norms"))]
    for everything, part in pool.run(layout.processes, gradients_of_stages, runs, start):
        assert {part_of(name) for name in part} == {"attention", "norms"}
        for name, gradient in part.items():
            assert gradient.abs().max() > 0.0
            torch.testing.assert_close(gradient, everything[name], rtol=1e-5, atol=1e-7)
