"""Telemetry counts every weight once and every row once in any layout, and measures what really happened."""

import math
from dataclasses import fields, replace
from typing import Any, NamedTuple

import pytest
import torch

from megatron_nmm.config import (
    DataConfig,
    JournalConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    PrecisionConfig,
    RatesConfig,
    RunConfig,
    VisionConfig,
)
from megatron_nmm.config.check import check
from megatron_nmm.config.schema_model import SparseConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.build import build
from megatron_nmm.parallel import full_state
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.parallel.world import World
from megatron_nmm.train.collapse import alarms
from megatron_nmm.train.optim import Optimizer, Update
from megatron_nmm.train.telemetry import Telemetry, TelemetryReading
from megatron_nmm.verify import compare, layouts, synthetic
from megatron_nmm.verify.layouts import LAYOUTS, Layout
from megatron_nmm.verify.workers import Place, WorkerPool

EVERY_SECOND = JournalConfig(telemetry=2)
CLIPPED = OptimConfig(clip=0.01)
"""Far below any gradient of a toy, so that clipping always changes the gradients."""
TIED = layouts.toy(RunConfig(steps=4, model=ModelConfig(tie_embeddings=True), journal=EVERY_SECOND, optim=CLIPPED))
NAVIL = layouts.toy(
    RunConfig(
        steps=4,
        model=ModelConfig(
            # Three heads: over two tensor ranks the encoder is replicated, so its weights must count once.
            vision=VisionConfig(depth=2, heads=3, connector="pixel_shuffle"),
            modality_experts="all",
            special_embeddings=True,
            image_mask="causal",
        ),
        data=DataConfig(image_rule="native"),
        journal=EVERY_SECOND,
        optim=CLIPPED,
    )
)
SPARSE = layouts.toy(
    RunConfig(
        steps=4,
        model=ModelConfig(sparse=SparseConfig(experts=8, top_k=2, dense_layers=(1,))),
        journal=EVERY_SECOND,
        optim=CLIPPED,
    )
)
RUNS = {"early fusion, tied": TIED, "NaViL": NAVIL, "sparse": SPARSE}
PARTS = {
    "early fusion, tied": ["vision", "attention", "ffn", "norms", "embeddings"],
    "NaViL": [field.name for field in fields(RatesConfig) if field.name != "router"],
    "sparse": ["vision", "attention", "ffn", "router", "norms", "embeddings", "output"],
}
"""Which parts each has."""


class Step(NamedTuple):
    """A step that was measured."""

    reading: TelemetryReading
    update: Update


def _share(run: RunConfig, world: World, seed: int, images: bool = True) -> list[Batch]:
    """This rank's microbatches of a step."""
    everything = synthetic.batches(run, run.data.global_batch // run.data.microbatch, seed, images=images)
    share = len(everything) // world.data_size
    return everything[world.data_rank * share : (world.data_rank + 1) * share]


def _measured(place: Place, run: RunConfig, state: compare.State) -> Step:
    """The second of two steps, which is due."""
    with place.world(run.parallel, run.seed) as world:
        model = build(run, world)
        full_state.load(model, state)
        optimizer = Optimizer(run, model, world)
        telemetry = Telemetry(run, model, optimizer, world)
        for step in (1, 2):
            with telemetry.watch(step):
                forward_backward(model, _share(run, world, step), world)
            update = optimizer.step(step)
            reading = telemetry.read(update)
            assert (reading is None) == (step == 1)
        assert reading is not None
        return Step(reading, update)


@pytest.fixture(scope="module", params=RUNS)
def reference(request: pytest.FixtureRequest, pool: WorkerPool) -> tuple[str, compare.State, Step]:
    """Name of a run, a full state of its model and a measured step in one process."""
    run = RUNS[request.param]
    state = compare.initial_state(pool, run)
    return request.param, state, pool.run(1, _measured, run, state)[0]


def test_parts_hold_every_weight_once(reference: tuple[str, compare.State, Step]) -> None:
    name, state, (reading, update) = reference
    assert list(reading.parts) == PARTS[name]
    assert sum(part.values for part in reading.parts.values()) == sum(map(torch.numel, state.values()))
    # A tied table is the embeddings': its copy on another stage is not counted.
    assert reading.parts["embeddings"].values == RUNS[name].model.vocabulary * RUNS[name].model.width
    total = math.hypot(*(part.gradient for part in reading.parts.values()))
    assert total == pytest.approx(update.grad_norm, rel=1e-5)
    assert all(0.1 < part.pace < 2 for part in reading.parts.values())


LEGAL = [
    (name, layout)
    for name, run in RUNS.items()
    for layout in LAYOUTS
    if not check(replace(run, parallel=layout.parallel), layout.processes)
]


@pytest.mark.parametrize(
    ("reference", "layout"), LEGAL, indirect=["reference"], ids=[f"{name}-{layout.name}" for name, layout in LEGAL]
)
def test_a_layout_reads_what_one_process_reads(
    layout: Layout, reference: tuple[str, compare.State, Step], pool: WorkerPool
) -> None:
    name, state, (expected, _) = reference
    ranks = pool.run(layout.processes, _measured, replace(RUNS[name], parallel=layout.parallel), state)
    assert all(rank.reading == ranks[0].reading for rank in ranks)
    reading = ranks[0].reading
    assert reading.parts.keys() == expected.parts.keys()
    for part, values in expected.parts.items():
        assert vars(reading.parts[part]) == pytest.approx(vars(values), rel=1e-4), part
        assert reading.parts[part].values == values.values
    assert (reading.text_rows, reading.visual_rows) == (expected.text_rows, expected.visual_rows)
    assert reading.text == pytest.approx(expected.text, rel=1e-5)
    assert reading.visual == pytest.approx(expected.visual, rel=1e-5)
    assert (reading.routing is not None) == bool(RUNS[name].model.sparse_layers)


FORMS = [(dtype, sharded) for dtype in ("fp32", "bf16") for sharded in (False, True)]


@pytest.mark.parametrize(("dtype", "sharded"), FORMS)
def test_updates_are_what_the_weights_moved_by(dtype: str, sharded: bool, pool: WorkerPool) -> None:
    run = replace(
        TIED,
        precision=PrecisionConfig(dtype=dtype),  # type: ignore[arg-type]
        parallel=ParallelConfig(distributed_optimizer=sharded),
        optim=OptimConfig(learning_rate=0.05, weight_decay=0.1, clip=0.5),
    )
    for moved, counted in pool.run(2, _moves, run):
        assert bool(moved) == counted
        for worked_out, measured in moved:
            assert torch.linalg.vector_norm(worked_out - measured) <= 1e-4 * torch.linalg.vector_norm(measured)


def _moves(place: Place, run: RunConfig) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], bool]:
    """(update worked out from moments, update measured on a copy) of each piece in step 2; whether this rank counts."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        optimizer = Optimizer(run, model, world)
        for step in (1, 2):
            forward_backward(model, _share(run, world, step), world)
            before = [shard.weight.clone() for shard in optimizer.shards()]
            optimizer.step(step)
        moved = []
        for old, shard in zip(before, optimizer.shards(), strict=True):
            assert shard.weight.dtype == torch.float32
            decayed = old * (1 - shard.group["lr"] * shard.group["weight_decay"])
            moved.append((shard.update(), decayed - shard.weight))
        return moved, run.parallel.distributed_optimizer or world.data_rank == 0


@pytest.mark.parametrize("images", [True, False])
def test_features_are_those_of_the_rows(images: bool, pool: WorkerPool) -> None:
    (found,) = pool.run(1, _features, NAVIL, images)
    reading, sizes = found
    assert reading.visual_rows > 0 or not images
    for measured, expected in zip((reading.text, reading.visual), sizes, strict=True):
        assert measured == pytest.approx(expected, rel=1e-6, nan_ok=True)
    assert all(map(math.isnan, reading.visual)) != images
    assert all(map(math.isnan, reading.feature_ratios)) != images


def _features(place: Place, run: RunConfig, images: bool) -> tuple[TelemetryReading, list[list[float]]]:
    """What a due step reads, and [text, visual] x [layer] worked out row by row from what the layers put out."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        optimizer = Optimizer(run, model, world)
        telemetry = Telemetry(run, model, optimizer, world)
        layers: Any = model.module.decoder.layers  # type: ignore[union-attr]
        outputs: list[list[torch.Tensor]] = [[] for _ in layers]
        own = [
            layer.register_forward_hook(lambda _, __, out, place=place: outputs[place].append(out[0].detach()[:, 0]))
            for place, layer in enumerate(layers)
        ]
        batches = _share(run, world, 3, images)
        with telemetry.watch(run.steps):
            assert all(len(layer._forward_hooks) == 2 for layer in layers)
            forward_backward(model, batches, world)
        reading = telemetry.read(optimizer.step(1))
        assert reading is not None
        for handle in own:
            handle.remove()
        with telemetry.watch(1):
            assert not any(layer._forward_hooks for layer in layers)
        assert telemetry.read(Update(0.1, 1.0, True)) is None
        sizes = []
        for rows in ([batch.text_index for batch in batches], [batch.visual_index for batch in batches]):
            picked = [torch.cat([out[i] for out, i in zip(outs, rows, strict=True)]) for outs in outputs]
            sizes.append([float(rows.square().mean(1).sqrt().mean()) for rows in picked])
        return reading, sizes


def test_a_skipped_step_moves_nothing_and_alarms_for_its_reason_alone(pool: WorkerPool) -> None:
    for reading in pool.run(2, _poisoned, replace(NAVIL, parallel=ParallelConfig(tensor=2))):
        assert math.isnan(reading.parts["ffn"].gradient)
        assert all(part.update == 0 and math.isnan(part.pace) for part in reading.parts.values())
        (alarm,) = alarms(reading)
        assert (alarm.rule, alarm.value) == ("not_finite", None)
        assert alarm.text.startswith("not finite: gradient of ffn;")


def _poisoned(place: Place, run: RunConfig) -> TelemetryReading | None:
    """A good step, then one with a nan among rank 1's gradients."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        optimizer = Optimizer(run, model, world)
        telemetry = Telemetry(run, model, optimizer, world)
        forward_backward(model, _share(run, world, 1), world)
        optimizer.step(1)
        with telemetry.watch(2):
            forward_backward(model, _share(run, world, 2), world)
            if place.rank == 1:
                matrix: Any = dict(model.named_parameters())["module.decoder.layers.1.mlp.linear_fc2.weight"]
                matrix.main_grad[0, 0] = float("nan")
        return telemetry.read(optimizer.step(2))


def test_zero_means_never(pool: WorkerPool) -> None:
    run = replace(NAVIL, journal=JournalConfig(telemetry=0))
    assert pool.run(1, _read_last, run) == [None]


def _read_last(place: Place, run: RunConfig) -> TelemetryReading | None:
    with place.world(run.parallel) as world:
        model = build(run, world)
        optimizer = Optimizer(run, model, world)
        telemetry = Telemetry(run, model, optimizer, world)
        with telemetry.watch(run.steps):
            forward_backward(model, _share(run, world, 1), world)
        return telemetry.read(optimizer.step(run.steps))
