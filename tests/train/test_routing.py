"""Routing figures have the values that can be worked out by hand, and every layout counts each token's choices once."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from megatron_nmm.config import JournalConfig, ModelConfig, ParallelConfig, RunConfig
from megatron_nmm.config.schema_model import SparseConfig
from megatron_nmm.models.build import build
from megatron_nmm.parallel import full_state
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.train.optim import Optimizer
from megatron_nmm.train.routing import LayerRouting, RoutingReading
from megatron_nmm.train.telemetry import Telemetry
from megatron_nmm.verify import compare, layouts, synthetic
from megatron_nmm.verify.layouts import LAYOUTS, Layout
from megatron_nmm.verify.workers import Place, WorkerPool

LOSSES = [30.0, 60.0, 20.0]
"""Balance and z summed over 20 tokens."""


def _layer(text: Sequence[int], image: Sequence[int]) -> LayerRouting:
    (layer,) = RoutingReading.of((1,), torch.tensor([[text, image]]), torch.tensor([LOSSES])).layers
    return layer


def _entropy(*shares: float) -> float:
    return -sum(share * math.log2(share) for share in shares)


FIGURES: dict[str, tuple[tuple[list[int], list[int]], dict[str, float]]] = {
    "an expert for each": (
        ([30, 0], [0, 10]),
        {
            "specialization": 1.0,
            "mutual_information": _entropy(0.75, 0.25),
            "deviation": 0.5,
            "load_entropy": _entropy(0.75, 0.25),
            "peak": 1.5,
        },
    ),
    "even": (
        ([5, 5, 5, 5], [5, 5, 5, 5]),
        {"specialization": 0.0, "mutual_information": 0.0, "deviation": 0.0, "load_entropy": 1.0, "peak": 1.0},
    ),
    # P1's score has a floor where one modality is rarer, the mutual information has none.
    "even, few images": (
        ([9, 9], [1, 1]),
        {"specialization": 1 - _entropy(0.9, 0.1), "mutual_information": 0.0, "deviation": 0.0, "load_entropy": 1.0},
    ),
    # The dead expert is not among those whose specialization is averaged: (1 + 1 + 0) / 3.
    "one dead": (
        ([8, 0, 2, 0], [0, 8, 2, 0]),
        {
            "specialization": 2 / 3,
            "mutual_information": 0.8,
            "deviation": (0.55 + 0.25 + 0.05 + 0.25) / 4,
            "load_entropy": _entropy(0.4, 0.4, 0.2) / 2,
            "peak": 1.6,
        },
    ),
    "collapsed": (
        ([7, 0], [7, 0]),
        {"specialization": 0.0, "mutual_information": 0.0, "deviation": 0.5, "load_entropy": 0.0, "peak": 2.0},
    ),
    "text alone": (
        ([6, 2], [0, 0]),
        {"specialization": 1.0, "mutual_information": 0.0, "deviation": 0.25, "load_entropy": _entropy(0.75, 0.25)},
    ),
    "nothing": (
        ([0, 0], [0, 0]),
        dict.fromkeys(("specialization", "mutual_information", "deviation", "load_entropy", "peak"), math.nan),
    ),
    "a single expert": (([3], [4]), {"load_entropy": 1.0, "mutual_information": 0.0, "deviation": 0.0, "peak": 1.0}),
}
"""Name -> (choices by text and by images, what follows)."""


@pytest.mark.parametrize("name", FIGURES)
def test_figures(name: str) -> None:
    (text, image), expected = FIGURES[name]
    layer = _layer(text, image)
    found = {figure: getattr(layer, figure) for figure in expected}
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_losses_are_means_over_tokens_and_shares_know_what_is_empty() -> None:
    layer = _layer([8, 0, 2, 0], [0, 8, 2, 0])
    assert (layer.balance, layer.z) == (1.5, 3.0)
    assert layer.load == (0.4, 0.4, 0.2, 0.0)
    assert layer.dead == (3,)
    assert layer.image_shares == pytest.approx((0.0, 1.0, 0.5, math.nan), nan_ok=True)
    (none,) = RoutingReading.of((1,), torch.ones(1, 2, 2), torch.zeros(1, 3)).layers
    assert math.isnan(none.balance) and math.isnan(none.z)


def test_idle_experts_count_measurements_in_a_row() -> None:
    steps = [[1, 0, 1], [1, 0, 0], [0, 0, 1]]
    before, idle = None, []
    for used in steps:
        before = RoutingReading.of((2,), torch.tensor([[used, [0, 0, 0]]]), torch.tensor([LOSSES]), before)
        idle.append(before.layers[0].idle)
    assert idle == [(0, 1, 0), (0, 2, 1), (1, 3, 0)]


SPARSE = SparseConfig(experts=8, top_k=2, dense_layers=(1,), z_loss=0.001)
RUN = layouts.toy(RunConfig(steps=4, model=ModelConfig(sparse=SPARSE), journal=JournalConfig(telemetry=2)))
NUMBERS = (1, 3, 4)
"""Its sparse layers."""
NAMES = (
    *("TP2+SP", "PP2", "DP2", "EP2", "EP2+recompute", "EP2 in TP2+SP", "EP2xTP2+SP", "EP2xPP2"),
    *("TP2xDP2+SP+distributed optimizer", "CP2xTP2+SP", "EP2 in CP2"),
)
TESTED = [
    *(layout for layout in LAYOUTS if layout.name in NAMES),
    *(Layout(f"EP2 by {way}", 2, ParallelConfig(expert=2, dispatcher=way)) for way in ("allgather", "alltoall")),
]
"""Every way to spread tokens and layers, and every way that hands routers' choices on."""


def _read(place: Place, run: RunConfig, state: compare.State) -> list[RoutingReading]:
    """Two measurements."""
    with place.world(run.parallel, run.seed) as world:
        model = build(run, world)
        full_state.load(model, state)
        optimizer = Optimizer(run, model, world)
        telemetry = Telemetry(run, model, optimizer, world)
        readings = []
        for step in (2, 4):
            everything = synthetic.batches(run, run.data.global_batch // run.data.microbatch, step)
            share = len(everything) // world.data_size
            with telemetry.watch(step):
                forward_backward(model, everything[world.data_rank * share :][:share], world)
            reading = telemetry.read(optimizer.step(step))
            assert reading is not None and reading.routing is not None
            readings.append(reading.routing)
        return readings


@pytest.fixture(scope="module")
def reference(pool: WorkerPool) -> tuple[compare.State, list[RoutingReading]]:
    """A full state of the model, and what one process reads."""
    state = compare.initial_state(pool, RUN)
    # Routers as they start choose nearly evenly, and a few nearly equal scores would depend on the order of sums.
    state = {name: value * 20 if "router.weight" in name else value for name, value in state.items()}
    return state, pool.run(1, _read, RUN, state)[0]


def test_a_step_counts_every_token_once(reference: tuple[compare.State, list[RoutingReading]]) -> None:
    for step, reading in zip((2, 4), reference[1], strict=True):
        batches = synthetic.batches(RUN, RUN.data.global_batch // RUN.data.microbatch, step)
        filled = sum(int(batch.filled.sum()) for batch in batches)
        images = sum(int((batch.modality == 1).sum()) for batch in batches)
        assert tuple(layer.layer for layer in reading.layers) == NUMBERS
        for layer in reading.layers:
            assert (sum(layer.text), sum(layer.image)) == (2 * (filled - images), 2 * images)
            assert layer.specialization > 0.05 and layer.balance > 1.0 and layer.z > 0.0


@pytest.mark.parametrize("layout", TESTED, ids=lambda layout: layout.name)
def test_a_layout_reads_what_one_process_reads(
    layout: Layout, reference: tuple[compare.State, list[RoutingReading]], pool: WorkerPool
) -> None:
    state, (expected, _) = reference
    ranks = pool.run(layout.processes, _read, replace(RUN, parallel=layout.parallel), state)
    assert all(rank == ranks[0] for rank in ranks)
    for layer, single in zip(ranks[0][0].layers, expected.layers, strict=True):
        assert (layer.text, layer.image, layer.idle) == (single.text, single.image, single.idle), layer.layer
        assert (layer.balance, layer.z) == pytest.approx((single.balance, single.z), rel=1e-5)


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_figures_are_those_of_the_routers(recompute: Any, pool: WorkerPool) -> None:
    run = replace(RUN, parallel=ParallelConfig(recompute=recompute))
    ((layers, passes, left),) = pool.run(1, _traced, run)
    assert left == 0, "hooks stay for one step"
    assert passes == (2 if recompute == "full" else 1) * 4
    for layer, (text, image, balance, z) in layers:
        assert (list(layer.text), list(layer.image)) == (text, image)
        assert (layer.balance, layer.z) == pytest.approx((balance, z), rel=1e-6)


def _traced(place: Place, run: RunConfig) -> tuple[list[Any], int, int]:
    """(each layer as read, the same from lists of what its router chose), passes of a router, hooks left behind."""
    with place.world(run.parallel, run.seed) as world:
        model: Any = build(run, world)
        optimizer = Optimizer(run, model, world)
        telemetry = Telemetry(run, model, optimizer, world)
        routers = [model.module.decoder.layers[number - 1].mlp.router for number in NUMBERS]
        seen: dict[Any, list[Any]] = {router: [] for router in routers}
        handles = [
            router.register_forward_hook(
                lambda router, _, __: seen[router].append((router.experts, router.plan.sparse.kind, router.losses))
            )
            for router in routers
        ]
        batches = synthetic.batches(run, 4, 2)
        with telemetry.watch(2):
            forward_backward(model, batches, world)
        reading = telemetry.read(optimizer.step(2))
        assert reading is not None and reading.routing is not None
        for handle in handles:
            handle.remove()
        passes = len(seen[routers[0]])
        found = []
        for layer, router in zip(reading.routing.layers, routers, strict=True):
            counts = [[0] * run.model.sparse.experts, [0] * run.model.sparse.experts]
            once = seen[router][:: passes // 4]
            for experts, kinds, _ in once:
                for chosen, kind in zip(experts.tolist(), kinds.tolist(), strict=True):
                    for expert in chosen if kind < 2 else ():
                        counts[kind][expert] += 1
            # Passes without a graph leave the losses of the microbatch before, so each pair of tensors is its own.
            losses = {id(balance): (float(balance), float(z)) for _, _, (balance, z) in filter(_has, seen[router])}
            tokens = sum(map(sum, counts)) / run.model.sparse.top_k
            balance, z = (sum(column) / tokens for column in zip(*losses.values(), strict=True))
            found.append((layer, (*counts, balance, z)))
        return found, passes, sum(len(router._forward_hooks) for router in routers)


def _has(seen: Any) -> bool:
    return seen[2] is not None
