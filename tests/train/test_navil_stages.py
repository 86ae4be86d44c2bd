"""NaViL's three stages (Table 7) on a toy of it: what moves, what costs state, and the same in every layout.

The toy has three encoder heads, so under tensor parallelism its encoder is whole on every rank and images are spread.
"""

from dataclasses import replace

import pytest
import torch

from megatron_nmm.config import DataConfig, RatesConfig, RunConfig
from megatron_nmm.config.presets import navil
from megatron_nmm.models.parts import VISUAL_PARTS, part_of
from megatron_nmm.verify import compare, layouts
from megatron_nmm.verify.layouts import LAYOUTS, SINGLE, Layout
from megatron_nmm.verify.workers import WorkerPool
from tests.train.stages import PARTS, Trained, gradients_of_stages, only, staged, take_steps

STAGES = {
    "S1.1": only(*VISUAL_PARTS),
    "S1.2": only(*VISUAL_PARTS, "attention"),
    "S2": RatesConfig(),
}
PLACES = {layout.name: layout for layout in LAYOUTS}
CASES = [
    ("S1.1", "TP2+SP"),
    ("S1.1", "PP2xDP2"),
    ("S1.2", "TP2xPP2+SP"),
    ("S1.2", "TP2+recompute"),
    ("S1.2", "DP2+distributed optimizer"),
    ("S2", "TP2xDP2+SP+distributed optimizer"),
]


def _toy(rates: RatesConfig) -> RunConfig:
    data = DataConfig(image_rule="native", multi_scale=True, augment=False)
    run = layouts.toy(RunConfig(model=navil("2b"), data=data))
    assert run.model.modality_experts == "all" and run.model.special_embeddings and run.model.vision.heads == 3
    return staged(replace(run, model=replace(run.model, layers=2)), rates)


@pytest.fixture(scope="module")
def start(pool: WorkerPool) -> compare.State:
    """Weights that every stage here begins with."""
    return compare.initial_state(pool, _toy(RatesConfig()))


@pytest.fixture(scope="module")
def alone(start: compare.State, pool: WorkerPool) -> dict[str, tuple[RunConfig, Trained]]:
    """Every stage in one process."""
    runs = {name: _toy(rates) for name, rates in STAGES.items()}
    return {name: (run, pool.run(1, take_steps, run, start)[0]) for name, run in runs.items()}


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_trains_and_what_it_keeps_state_of(
    stage: str, alone: dict[str, tuple[RunConfig, Trained]], start: compare.State
) -> None:
    run, after = alone[stage]
    has = set(PARTS) - {"router"}  # the toy has every part but sparse experts'
    trains = {part for part in has if getattr(run.optim.rates, part)}
    assert {part_of(name) for name in start} == has
    assert after.weights is not None
    for name, value in after.weights.items():
        assert torch.equal(value, start[name]) == (part_of(name) not in trains), name
    values = sum(value.numel() for name, value in start.items() if part_of(name) in trains)
    assert after.trained == trains
    assert (after.trained_values, after.moment_bytes, after.gradient_bytes) == (values, 8 * values, 4 * values)


@pytest.mark.parametrize(("stage", "place"), CASES)
def test_a_stage_learns_in_every_layout_what_it_learns_in_one_process(
    stage: str, place: str, alone: dict[str, tuple[RunConfig, Trained]], start: compare.State, pool: WorkerPool
) -> None:
    (run, expected), layout = alone[stage], PLACES[place]
    ranks = pool.run(layout.processes, take_steps, replace(run, parallel=layout.parallel), start)
    assert expected.weights is not None and ranks[0].weights is not None
    for name, value in expected.weights.items():
        if part_of(name) in expected.trained:
            torch.testing.assert_close(ranks[0].weights[name], value, rtol=1e-5, atol=2e-6)
        else:
            assert torch.equal(ranks[0].weights[name], value), name
    for rank in ranks:
        assert rank.norms == pytest.approx(expected.norms, rel=1e-5)


@pytest.mark.parametrize("layout", [SINGLE, PLACES["TP2+SP"]], ids=lambda layout: layout.name)
def test_freezing_changes_no_gradient_of_what_trains(layout: Layout, start: compare.State, pool: WorkerPool) -> None:
    """Text attention alone learns, recomputed, above an encoder and embeddings that take no gradient."""
    parallel = replace(layout.parallel, recompute="full")
    runs = [replace(_toy(rates), parallel=parallel) for rates in (RatesConfig(), only("attention"))]
    for everything, part in pool.run(layout.processes, gradients_of_stages, runs, start):
        assert {part_of(name) for name in part} == {"attention"}
        for name, gradient in part.items():
            assert gradient.abs().max() > 0.0
            torch.testing.assert_close(gradient, everything[name], rtol=1e-5, atol=1e-7)
