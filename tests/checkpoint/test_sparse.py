"""Checkpoints of sparse experts: any number of ranks reads any other's; a dense model becomes a sparse one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_nmm.config import InitConfig, ParallelConfig, RunConfig, SparseConfig
from megatron_nmm.verify import synthetic
from megatron_nmm.verify.layouts import LAYOUTS, SINGLE, Layout
from megatron_nmm.verify.workers import WorkerPool
from tests.checkpoint import init_jobs, jobs

BY_NAME = {layout.name: layout for layout in (*LAYOUTS, SINGLE)}
EP2, SHARDED = BY_NAME["EP2"], BY_NAME["EP2+distributed optimizer"]
FOUR = SparseConfig(experts=4, top_k=2, bias_rate=1e-2)
HALF, WHOLE = 3, 4
"""An odd half: a bias that outweighs the scores of a fresh router comes back to zero every other step."""


def toy(layout: Layout, dtype: str = "fp32", sparse: SparseConfig = FOUR, seed: int = 1) -> RunConfig:
    """The toy of the other checkpoints, sparse."""
    run = jobs.toy(layout, dtype, seed)
    return replace(run, model=replace(run.model, sparse=sparse))


@pytest.fixture(scope="module")
def of_ep2(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A run on two expert ranks, saved at half time, and the losses of its second half."""
    folder = tmp_path_factory.mktemp("ep2")
    losses = pool.run(2, jobs.train_and_save, toy(EP2), folder, HALF)[0]
    whole = pool.run(2, jobs.train_and_save, toy(EP2), tmp_path_factory.mktemp("whole"), WHOLE)[0]
    assert losses == whole[:HALF]
    return folder, whole[HALF:]


@pytest.mark.parametrize("name", ["one process", "EP2+distributed optimizer", "EP2xPP2", "EP2xTP2+SP", "DP2"])
def test_a_checkpoint_of_ep2_continues_in_any_layout(
    name: str, of_ep2: tuple[Path, list[float]], pool: WorkerPool, tmp_path: Path
) -> None:
    """Weights, biases, moments equal to the bit when they are saved again; later losses within 1e-6; and back."""
    folder, expected = of_ep2
    layout = BY_NAME[name]
    _, losses, _ = pool.run(
        layout.processes, jobs.resume_and_train, toy(layout, seed=9), folder, WHOLE, tmp_path / "there"
    )[0]
    saved = pool.run(1, jobs.tensors, folder / "checkpoints/step-00000003")[0]
    carried = pool.run(1, jobs.tensors, tmp_path / "there/checkpoints/step-00000003")[0]
    assert saved.keys() == carried.keys()
    for key, value in saved.items():
        assert torch.equal(value, carried[key]), key
    assert any("expert_bias" in key and value.any() for key, value in saved.items())
    assert saved["decoder.layers.0.mlp.experts.experts.linear_fc1.weight"].shape[0] == 4
    assert losses == pytest.approx(expected, rel=1e-6)


def test_bf16_masters_of_a_sharded_optimizer_come_back(pool: WorkerPool, tmp_path: Path) -> None:
    pool.run(2, jobs.train_and_save, toy(SHARDED, "bf16"), tmp_path / "a", HALF)
    pool.run(1, jobs.resume_and_train, toy(SINGLE, "bf16", seed=9), tmp_path / "a", HALF + 1, tmp_path / "b")
    saved, carried = (pool.run(1, jobs.tensors, tmp_path / f"{x}/checkpoints/step-00000003")[0] for x in "ab")
    assert saved.keys() == carried.keys()
    assert all(torch.equal(value, carried[key]) for key, value in saved.items())
    assert any("fp32_param" in key and "experts" in key for key in saved)


@pytest.mark.parametrize("name", ["one process", "EP2", "EP2xPP2"])
@pytest.mark.parametrize("top_k", [1, 2])
def test_a_dense_checkpoint_becomes_a_sparse_one_of_the_same_function(
    name: str, top_k: int, pool: WorkerPool, tmp_path: Path
) -> None:
    pool.run(2, jobs.train_and_save, jobs.toy(BY_NAME["TP2"]), tmp_path, HALF)
    dense = replace(jobs.toy(SINGLE), init=InitConfig(checkpoint=str(tmp_path)))
    sparse = SparseConfig(experts=4, top_k=top_k, normalise=True)
    layout = BY_NAME[name]
    grown = replace(toy(layout, sparse=sparse, seed=9), init=dense.init)
    batch = synthetic.batches(dense, 1, seed=3)[0]
    real = torch.arange(dense.data.sequence_length) < batch.filled[:, None]
    weights, expected, _ = pool.run(1, init_jobs.initialised, dense, batch)[0]
    results = pool.run(layout.processes, init_jobs.initialised, grown, batch if layout.parallel.pipeline == 1 else None)
    found, scores, said = results[0]
    assert found.keys() - weights.keys() == {
        f"decoder.layers.{layer}.mlp.{part}"
        for layer in range(2)
        for part in ("router.weight", "experts.experts.linear_fc1.weight", "experts.experts.linear_fc2.weight")
    }
    for layer in range(2):
        for part in ("linear_fc1", "linear_fc2"):
            experts = found[f"decoder.layers.{layer}.mlp.experts.experts.{part}.weight"]
            one = weights[f"decoder.layers.{layer}.mlp.{part}.weight"]
            assert all(torch.equal(expert, one) for expert in experts)
    if scores is not None:
        torch.testing.assert_close(scores[real], expected[real], rtol=1e-5, atol=1e-5)
    assert "step-00000003 has no sparse experts: they begin as 4 copies of MLPs" in said
    assert "step-00000003 has no routers: drawn at random" in said


def test_experts_of_another_width_than_the_mlp_are_refused(pool: WorkerPool, tmp_path: Path) -> None:
    pool.run(1, jobs.train_and_save, jobs.toy(SINGLE), tmp_path, HALF)
    fine = SparseConfig(experts=4, top_k=2, ffn=24)
    run = replace(toy(SINGLE, sparse=fine), parallel=ParallelConfig(), init=InitConfig(checkpoint=str(tmp_path)))
    told, unchanged = pool.run(1, init_jobs.refused, run)[0]
    assert "decoder.layers.0.mlp.linear_fc1.weight has shape (96, 32), this model wants (48, 32)" in told and unchanged
