"""Whole tensors gathered from shards fit back into every layout, and a wrong state changes nothing."""

from dataclasses import replace

import pytest
import torch

from megatron_nmm.config import ModelConfig, OptimConfig, ParallelConfig, RatesConfig, RunConfig
from megatron_nmm.errors import CheckpointError
from megatron_nmm.models.build import build
from megatron_nmm.models.parts import part_of
from megatron_nmm.parallel import full_state
from megatron_nmm.verify import compare, layouts
from megatron_nmm.verify.layouts import Layout
from megatron_nmm.verify.workers import Place, WorkerPool

RUN = layouts.toy(RunConfig(model=ModelConfig(query_groups=8)))
LAYOUTS = {
    "one process": ParallelConfig(),
    "TP2+SP": ParallelConfig(tensor=2, sequence=True),
    "PP2": ParallelConfig(pipeline=2),
    "DP2": ParallelConfig(),
}


@pytest.fixture(scope="module")
def state(pool: WorkerPool) -> compare.State:
    """One full set of weights."""
    return compare.initial_state(pool, RUN)


def _round_trip(place: Place, run: RunConfig, state: compare.State) -> compare.State | None:
    """Load, spoil what is not a parameter of this layout's own drawing, gather."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float("nan"))
        full_state.load(model, state)
        return full_state.gather(model, world)


@pytest.mark.parametrize("name", LAYOUTS)
def test_load_and_gather_give_back_every_bit(name: str, pool: WorkerPool, state: compare.State) -> None:
    parallel = LAYOUTS[name]
    size = 1 if name == "one process" else 2
    first, *others = pool.run(size, _round_trip, replace(RUN, parallel=parallel), state)
    assert first.keys() == state.keys()
    assert all(torch.equal(first[key], state[key]) for key in state)
    assert others == [None] * (size - 1), "only rank 0 holds the whole"


def test_layers_are_named_one_by_one_whatever_the_stage(state: compare.State) -> None:
    layers = {key.split(".")[2] for key in state if key.startswith("decoder.layers.")}
    assert layers == {str(layer) for layer in range(RUN.model.layers)}


def _refused(place: Place, run: RunConfig, state: compare.State) -> tuple[str, bool]:
    """The message, and whether every parameter is as it was."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        try:
            full_state.load(model, state)
        except CheckpointError as error:
            same = zip(before, model.parameters(), strict=True)
            return str(error), all(torch.equal(old, new) for old, new in same)
    return "loaded", False


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_fault_is_named_and_nothing_is_changed(name: str, pool: WorkerPool, state: compare.State) -> None:
    wrong = {key: value for key, value in state.items() if key != "decoder.layers.1.mlp.linear_fc2.weight"}
    wrong["decoder.layers.1.mlp.linear_fc1.weight"] = torch.zeros(7, 64)
    run = replace(RUN, parallel=LAYOUTS[name])
    message, unchanged = pool.run(1 if name == "one process" else 2, _refused, run, wrong)[0]
    assert unchanged
    assert "decoder.layers.1.mlp.linear_fc2.weight is missing" in message
    assert "decoder.layers.1.mlp.linear_fc1.weight has shape (7, 64), the model wants (192, 64)" in message


@pytest.mark.parametrize("name", ["TP2+SP", "PP2"])
def test_gradients_of_frozen_parameters_are_left_out(name: str, pool: WorkerPool, state: compare.State) -> None:
    """A recipe that freezes parts is compared by what it trains."""
    frozen = RatesConfig(ffn=0.0, attention=0.0)
    run = replace(RUN, optim=OptimConfig(rates=frozen))
    layout = Layout(name, 2, LAYOUTS[name])
    expected = compare.reference_step(pool, run, state)
    result = compare.step(pool, replace(run, parallel=layout.parallel), layout, state)
    comparison = compare.compare(expected, result, layout)
    assert {part_of(key) for key in comparison.errors} == {"vision", "embeddings", "norms", "output"}
    assert comparison.passes(1e-5), comparison.worst
