"""Checkpoints of models with modality experts: written by one layout, read by another, bit for bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_nmm.config import ModelConfig, RunConfig
from megatron_nmm.verify import layouts
from megatron_nmm.verify.layouts import LAYOUTS, SINGLE, Layout
from megatron_nmm.verify.workers import WorkerPool
from tests.checkpoint import jobs

BY_NAME = {layout.name: layout for layout in (*LAYOUTS, SINGLE)}


def toy(layout: Layout, seed: int = 1) -> RunConfig:
    """Two narrow layers with experts everywhere."""
    run = layouts.toy(
        RunConfig(model=ModelConfig(modality_experts="all", query_groups=8, special_embeddings=True), seed=seed)
    )
    return replace(run, parallel=layout.parallel, model=replace(run.model, layers=2, width=32, ffn=48))


@pytest.fixture(scope="module")
def of_tp2(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A TP2 run with sequence parallelism, saved after its second step, and the loss of its third."""
    folder = tmp_path_factory.mktemp("experts")
    layout = BY_NAME["TP2+SP"]
    pool.run(layout.processes, jobs.train_and_save, toy(layout), folder, 2)
    straight = pool.run(layout.processes, jobs.train_and_save, toy(layout), folder / "straight", 3)[0]
    return folder, straight[2:]


@pytest.mark.parametrize("layout", ["one process", "PP2", "TP2xDP2+SP+distributed optimizer"])
def test_a_checkpoint_of_tp2_continues_in_any_layout(
    layout: str, of_tp2: tuple[Path, list[float]], pool: WorkerPool, tmp_path: Path
) -> None:
    folder, expected = of_tp2
    chosen = BY_NAME[layout]
    _, losses, _ = pool.run(chosen.processes, jobs.resume_and_train, toy(chosen, seed=99), folder, 3, tmp_path)[0]
    saved = pool.run(1, jobs.tensors, folder / "checkpoints/step-00000002")[0]
    carried = pool.run(1, jobs.tensors, tmp_path / "checkpoints/step-00000002")[0]
    assert saved.keys() == carried.keys()
    assert all(torch.equal(saved[name], carried[name]) for name in saved)
    assert {
        "decoder.layers.self_attention.visual.linear_proj.weight",
        "decoder.layers.mlp.visual.linear_fc1.weight",
    } <= {name.replace(".1.", ".") for name in saved}, sorted(saved)
    assert losses == pytest.approx(expected, rel=1e-6)
