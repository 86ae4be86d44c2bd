"""What casts lose is counted by product over all ranks, written down, told and drawn."""

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_nmm.config import JournalConfig, PrecisionConfig, RunConfig
from megatron_nmm.config.schema_model import SparseConfig, VisionConfig
from megatron_nmm.models.build import build
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.train import metrics
from megatron_nmm.train.casts import CastCounts, CastsReading
from megatron_nmm.train.console import casts_line
from megatron_nmm.train.record import casts_record
from megatron_nmm.train.tensorboard import scalars
from megatron_nmm.verify import layouts, synthetic
from megatron_nmm.verify.layouts import LAYOUTS, SINGLE, Layout
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.train.runs import tiny_run, train_job

READING = CastsReading.of(
    [
        {("decoder.1.mlp.linear_fc2", "gradient"): [100, 20, 0], ("decoder.1.mlp.linear_fc2", "input"): [10, 0, 1]},
        {("decoder.1.mlp.linear_fc2", "gradient"): [100, 0, 0], ("decoder.1.mlp.linear_fc1", "weight"): [50, 0, 0]},
        {("vision.2.self_attention.linear_qkv", "weight"): [50, 5, 0]},
    ]
)


def test_shares_are_of_all_ranks_in_order_of_depth() -> None:
    vision, fc1, fc2 = (
        "vision.2.self_attention.linear_qkv",
        "decoder.1.mlp.linear_fc1",
        "decoder.1.mlp.linear_fc2",
    )
    assert READING.products == (vision, fc1, fc2)
    assert READING.underflow == {"input": (0, 0, 0), "weight": (0.1, 0, 0), "gradient": (0, 0, 0.1)}
    assert READING.overflow == {"input": (0, 0, 0.1), "weight": (0, 0, 0), "gradient": (0, 0, 0)}


def test_a_line_names_what_loses_most() -> None:
    assert casts_line(casts_record(7, READING, 1.0)) == (
        "casts of step 7: weight underflow 10 % (vision.2.self_attention.linear_qkv), gradient underflow 10 % "
        "(decoder.1.mlp.linear_fc2), input overflow 10 % (decoder.1.mlp.linear_fc2)"
    )
    assert casts_line(casts_record(7, CastsReading.of([{("decoder.1.mlp.linear_fc1", "input"): [4, 0, 0]}]), 1.0)) == (
        "casts of step 7: nothing lost"
    )


def test_tags() -> None:
    tags = scalars(casts_record(7, READING, 1.0))
    assert tags["casts/underflow/gradient/decoder.1.mlp.linear_fc2"] == 0.1 and len(tags) == 2 * 3 * 3


def toy(layout: Layout, **model: object) -> RunConfig:
    run = layouts.toy(RunConfig())
    changed = replace(run.model, layers=2, **model)  # type: ignore[arg-type]
    return replace(run, model=changed, parallel=layout.parallel, precision=PrecisionConfig("fp32", "fp8_current"))


def _count(place: Place, run: RunConfig) -> CastsReading:
    with place.world(run.parallel, run.seed) as world:
        model = build(run, world)
        counts = CastCounts(model, world)
        batches = synthetic.batches(run, 2 // world.data_size, run.seed)
        with counts.watching():
            forward_backward(model, batches, world)
        return counts.reading()


def test_every_product_of_every_stage_is_counted(pool: WorkerPool) -> None:
    pipeline = next(layout for layout in LAYOUTS if layout.name == "PP2")
    vision = VisionConfig(depth=1, width=32, heads=2, ffn=48, patch=8)
    one, two = (pool.run(each.processes, _count, toy(each, vision=vision)) for each in (SINGLE, pipeline))
    assert two[0] == two[1] and one[0].products == two[0].products
    layers = ("vision.1", "decoder.1", "decoder.2")
    parts = ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")
    assert one[0].products == tuple(f"{layer}.{part}" for layer in layers for part in parts)
    # Other first weights in each layout, but as large.
    assert one[0].underflow["input"] == pytest.approx(two[0].underflow["input"], abs=2e-3)
    assert any(one[0].underflow["input"])


def test_experts_of_a_layer_are_counted_together(pool: WorkerPool) -> None:
    (reading,) = pool.run(1, _count, toy(SINGLE, sparse=SparseConfig(experts=2)))
    assert reading.products[2:4] == ("decoder.1.mlp.experts.linear_fc1", "decoder.1.mlp.experts.linear_fc2")


def test_a_run_writes_down_and_draws_what_casts_lose(pool: WorkerPool, tmp_path: Path) -> None:
    precision = PrecisionConfig("fp32", "fp8_delayed", amax_history=4)
    run = tiny_run(tmp_path, precision=precision, journal=JournalConfig(tensorboard=False, telemetry=3))
    pool.run(1, train_job, run)
    records = [r for r in metrics.read(tmp_path / "run" / metrics.NAME) if r["event"] == "casts"]
    assert [record["step"] for record in records] == [3, 6]
    assert len(records[0]["products"]) == 8
    assert any(any(shares) for loss in ("underflow", "overflow") for shares in records[0][loss].values())
    assert (tmp_path / "run/casts.png").stat().st_size > 10_000


def test_a_plain_run_has_nothing_to_count(pool: WorkerPool, tmp_path: Path) -> None:
    run = tiny_run(tmp_path, steps=1, journal=JournalConfig(tensorboard=False, telemetry=1))
    pool.run(1, train_job, run)
    assert all(record["event"] != "casts" for record in metrics.read(tmp_path / "run" / metrics.NAME))
