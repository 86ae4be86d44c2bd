"""An encoder that every tensor rank holds whole: same weights everywhere, each counted and saved once."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from megatron_nmm.config import ModelConfig, ParallelConfig, RunConfig
from megatron_nmm.config.schema import DataConfig
from megatron_nmm.config.schema_model import VisionConfig
from megatron_nmm.models.build import build
from megatron_nmm.parallel import full_state
from megatron_nmm.verify import layouts, synthetic
from megatron_nmm.verify.layouts import LAYOUTS
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.checkpoint import jobs

VISIONS = {
    "data": VisionConfig(depth=2, heads=3, bias=True, layer_scale=0.1),
    "tensor": VisionConfig(depth=2, bias=True, layer_scale=0.1, mlp="gelu"),
    "table": VisionConfig(
        depth=2, bias=True, qkv_bias=True, norm="layer", positions="table", table_side=32, class_token=True
    ),
}
BY_NAME = {layout.name: layout for layout in LAYOUTS}


def toy(placed: str, parallel: ParallelConfig) -> RunConfig:
    """A small run whose encoder is shared in this way."""
    run = layouts.toy(
        RunConfig(model=ModelConfig(vision=VISIONS[placed]), data=DataConfig(image_rule="native", augment=False))
    )
    return replace(run, parallel=parallel, model=replace(run.model, layers=2, width=32, ffn=48))


def _built(place: Place, run: RunConfig) -> dict[str, Any]:
    """What this rank holds right after building, counts into the gradient norm and saves."""
    from megatron.core.tensor_parallel.layers import param_is_not_tensor_parallel_duplicate

    with place.world(run.parallel) as world:
        model = build(run, world)
        named = {name.removeprefix("module."): p for name, p in model.named_parameters() if "vision_encoder" in name}
        pieces = [piece for piece in full_state.pieces(model, full_state.parameter) if "vision_encoder" in piece.key]
        return {
            "weights": {name: p.detach().clone() for name, p in named.items()},
            "counted": sum(p.numel() for p in named.values() if param_is_not_tensor_parallel_duplicate(p)),
            "saved": sum(piece.data.numel() for piece in pieces if not any(piece.replica_id)),
        }


@pytest.mark.parametrize("placed", VISIONS)
@pytest.mark.parametrize("sequence", [False, True])
def test_every_weight_is_counted_and_saved_once(placed: str, sequence: bool, pool: WorkerPool) -> None:
    run = toy(placed, ParallelConfig(tensor=2, sequence=sequence))
    alone = pool.run(1, _built, replace(run, parallel=ParallelConfig()))[0]
    both = pool.run(2, _built, run)
    size = sum(weight.numel() for weight in alone["weights"].values())
    assert sum(rank["counted"] for rank in both) == sum(rank["saved"] for rank in both) == size
    first, second = (rank["weights"] for rank in both)
    whole = [name for name, weight in alone["weights"].items() if weight.shape == first[name].shape]
    assert all(torch.equal(first[name], second[name]) for name in whole)
    drawn = [name for name in first if name.endswith("linear_qkv.weight")]
    assert drawn and all(torch.equal(first[name], second[name]) == (placed == "data") for name in drawn)
    assert (len(whole) == len(first)) == (placed == "data")


def _products(place: Place, run: RunConfig) -> int:
    """Operations of the products in this rank's forward pass of the encoder."""
    with place.world(run.parallel) as world:
        encoder = build(run, world).module.vision_encoder  # type: ignore[union-attr]
        batch = synthetic.batches(run, 1, seed=2)[0]
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            encoder(batch)  # type: ignore[operator]
        return counter.get_total_flops()


# Every rank interpolates a table of positions for itself.
@pytest.mark.parametrize("placed", ["data", "tensor"])
def test_the_tensor_group_computes_nothing_twice(placed: str, pool: WorkerPool) -> None:
    run = toy(placed, ParallelConfig(tensor=2, sequence=True))
    alone = pool.run(1, _products, replace(run, parallel=ParallelConfig()))[0]
    both = pool.run(2, _products, run)
    assert sum(both) == alone
    assert max(both) < 0.6 * alone


def test_a_run_goes_on_in_another_layout(pool: WorkerPool, tmp_path: Path) -> None:
    """Saved by four ranks of which two and two hold the same encoder, continued by one; and moments come along."""
    four = BY_NAME["TP2xDP2+SP+distributed optimizer"]
    run = toy("data", four.parallel)
    expected = pool.run(four.processes, jobs.train_and_save, run, tmp_path / "four", 1, 2)[0]
    shutil.rmtree(tmp_path / "four/checkpoints/step-00000002")
    single = replace(run, parallel=ParallelConfig(), seed=99)
    reached, losses, _ = pool.run(1, jobs.resume_and_train, single, tmp_path / "four", 2, tmp_path / "one")[0]
    assert reached.step == 1
    assert losses == pytest.approx(expected[1:], rel=1e-6)
    saved, carried = (
        pool.run(1, jobs.tensors, tmp_path / name / "checkpoints/step-00000001")[0] for name in ("four", "one")
    )
    assert saved.keys() == carried.keys() and any("exp_avg" in name and "vision_encoder" in name for name in saved)
    assert all(torch.equal(saved[name], carried[name]) for name in saved)
