"""Resuming with the real model and optimizer: N + N steps are 2N steps, in the same layout or in another."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_nmm.checkpoint import manifest
from megatron_nmm.config.io import from_dict
from megatron_nmm.verify.layouts import LAYOUTS, SINGLE, Layout
from megatron_nmm.verify.workers import WorkerPool
from tests.checkpoint import jobs

BY_NAME = {layout.name: layout for layout in (*LAYOUTS, SINGLE)}
TP2, PP2 = BY_NAME["TP2"], BY_NAME["PP2"]
SHARDED = BY_NAME["DP2+distributed optimizer"]
HALF, WHOLE = 3, 6


def _payload(checkpoint: Path) -> dict[str, str]:
    """sha256 of every file with tensors or objects; the index beside them holds a random id of its own."""
    files = manifest.read(checkpoint).files
    return {name: entry.sha256 for name, entry in files.items() if name.startswith("__")}


def _same_bits(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [(SINGLE, "fp32"), (SINGLE, "bf16"), (TP2, "bf16"), (PP2, "fp32"), (SHARDED, "bf16"), (SHARDED, "fp32")],
    ids=lambda value: getattr(value, "name", value),
)
def test_n_plus_n_steps_are_2n_steps_bit_for_bit(layout: Layout, dtype: str, pool: WorkerPool, tmp_path: Path) -> None:
    """Weights, moments, masters, step count and losses; the second half starts from other random weights."""
    straight = pool.run(layout.processes, jobs.train_and_save, jobs.toy(layout, dtype), tmp_path / "a", HALF, WHOLE)[0]
    (tmp_path / "b/checkpoints").mkdir(parents=True)
    shutil.copytree(tmp_path / "a/checkpoints/step-00000003", tmp_path / "b/checkpoints/step-00000003")
    other = jobs.toy(layout, dtype, seed=99)
    results = pool.run(layout.processes, jobs.resume_and_train, other, tmp_path / "b", WHOLE, tmp_path / "c")
    reached, losses, said = results[0]
    assert losses == straight[HALF:] and said == []
    assert reached.step == HALF and reached.consumed == HALF * other.data.global_batch
    assert from_dict(dict(reached.config)) == jobs.toy(layout, dtype)
    for step in (HALF, WHOLE):
        name = f"checkpoints/step-{step:08d}"
        assert _payload(tmp_path / "c" / name) == _payload(tmp_path / "a" / name)


@pytest.fixture(scope="module")
def of_tp2(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A TP2 run with a checkpoint at half time (alone in its folder) and the losses of its second half."""
    folder = tmp_path_factory.mktemp("tp2")
    losses = pool.run(2, jobs.train_and_save, jobs.toy(TP2), folder, HALF, WHOLE)[0]
    shutil.rmtree(folder / "checkpoints/step-00000006")
    return folder, losses[HALF:]


@pytest.mark.parametrize("layout", [SINGLE, PP2, SHARDED, BY_NAME["TP2xPP2+SP"]], ids=lambda layout: layout.name)
def test_a_checkpoint_of_tp2_continues_in_any_layout(
    layout: Layout, of_tp2: tuple[Path, list[float]], pool: WorkerPool, tmp_path: Path
) -> None:
    """Everything carried over is equal to the bit; the steps after it are within 1e-6 of TP2's own."""
    folder, expected = of_tp2
    run = jobs.toy(layout, seed=99)
    reached, losses, _ = pool.run(layout.processes, jobs.resume_and_train, run, folder, WHOLE, tmp_path)[0]
    assert reached.step == HALF
    carried = pool.run(1, jobs.tensors, tmp_path / "checkpoints/step-00000003")[0]
    _same_bits(pool.run(1, jobs.tensors, folder / "checkpoints/step-00000003")[0], carried)
    assert sum("exp_avg" in name for name in carried) == 2 * sum("optimizer" not in name for name in carried)
    assert losses == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_sharded_optimizer_and_a_plain_one_read_each_others_checkpoints(
    dtype: str, pool: WorkerPool, tmp_path: Path
) -> None:
    pool.run(2, jobs.train_and_save, jobs.toy(SHARDED, dtype), tmp_path / "sharded", 2)
    saved = pool.run(1, jobs.tensors, tmp_path / "sharded/checkpoints/step-00000002")[0]
    assert any("fp32_param" in name for name in saved) == (dtype == "bf16")
    pool.run(1, jobs.resume_and_train, jobs.toy(SINGLE, dtype), tmp_path / "sharded", 3, tmp_path / "plain")
    _same_bits(saved, pool.run(1, jobs.tensors, tmp_path / "plain/checkpoints/step-00000002")[0])
    (tmp_path / "again").mkdir()
    pool.run(2, jobs.resume_and_train, jobs.toy(SHARDED, dtype), tmp_path / "plain", 4, tmp_path / "again")
    plain = pool.run(1, jobs.tensors, tmp_path / "plain/checkpoints/step-00000003")[0]
    _same_bits(plain, pool.run(1, jobs.tensors, tmp_path / "again/checkpoints/step-00000003")[0])


def test_weights_alone_load_in_another_layout(of_tp2: tuple[Path, list[float]], pool: WorkerPool) -> None:
    folder, _ = of_tp2
    saved = pool.run(1, jobs.tensors, folder / "checkpoints/step-00000003")[0]
    weights = {name: value for name, value in saved.items() if not name.startswith("optimizer.")}
    for place, layout in ((folder, PP2), (folder / "checkpoints/step-00000003", SINGLE)):
        step, found = pool.run(layout.processes, jobs.weights_of, jobs.toy(layout, seed=99), place)[0]
        assert step == HALF
        _same_bits(weights, found)


def test_a_folder_without_checkpoints_is_a_fresh_start_and_stays_untouched(pool: WorkerPool, tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        assert pool.run(2, jobs.try_to_resume, jobs.toy(TP2), folder) == [(None, "", []), (None, "", [])]
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_model_is_refused_by_all_ranks(
    of_tp2: tuple[Path, list[float]], pool: WorkerPool
) -> None:
    """Wider, deeper, shallower: each names a tensor that tells why; ranks agree although each sees only its part."""
    folder, _ = of_tp2
    toy = jobs.toy(TP2)
    for change, told in (
        ({"width": 64}, "decoder.final_layernorm.weight has shape (32,), this model wants (64,)"),
        ({"layers": 3}, "decoder.layers.2.input_layernorm.weight is not in it"),
        ({"layers": 1}, "decoder.layers.1.input_layernorm.weight is in it, but not in this model"),
    ):
        run = replace(toy, model=replace(toy.model, **change))
        first, second = pool.run(2, jobs.try_to_resume, run, folder)
        assert first[1] == second[1] and told in first[1] and "does not fit this run" in first[1], first[1]
