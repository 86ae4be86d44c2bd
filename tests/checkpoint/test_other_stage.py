"""Checkpoints of stages with frozen parts: the same stage goes on to the bit, another one is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_nmm.checkpoint.other_stage import require_same_stage
from megatron_nmm.config import ParallelConfig, RunConfig
from megatron_nmm.config.schema import RatesConfig
from megatron_nmm.errors import CheckpointError
from megatron_nmm.models.parts import part_of
from megatron_nmm.verify.layouts import SINGLE, Layout
from megatron_nmm.verify.workers import WorkerPool
from tests.checkpoint import jobs
from tests.train.stages import only

HALF, WHOLE = 2, 4
PP2 = Layout("PP2", 2, ParallelConfig(pipeline=2))
SHARDED = Layout("PP2xDP2+distributed optimizer", 4, ParallelConfig(pipeline=2, distributed_optimizer=True))


def _stage(rates: RatesConfig, layout: Layout = SINGLE, dtype: str = "fp32", seed: int = 1) -> RunConfig:
    run = jobs.toy(layout, dtype, seed)
    return replace(run, optim=replace(run.optim, rates=rates))


def _tensors(folder: Path, step: int, pool: WorkerPool) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = pool.run(1, jobs.tensors, folder / f"checkpoints/step-{step:08d}")[0]
    return found


def _parts_with_state(tensors: dict[str, torch.Tensor], kind: str) -> set[str]:
    prefix = f"optimizer.state.{kind}."
    return {part_of(name.removeprefix(prefix)) for name in tensors if name.startswith(prefix)}


@pytest.mark.parametrize(
    ("layout", "dtype", "parts"),
    [
        (SINGLE, "fp32", ("ffn", "norms")),
        (SINGLE, "bf16", ("vision", "attention")),
        (PP2, "bf16", ("vision",)),
        (PP2, "fp32", ("output",)),
        (SHARDED, "bf16", ("output",)),
    ],
    ids=lambda value: getattr(value, "name", None) or (value if isinstance(value, str) else "+".join(value)),
)
def test_a_stage_goes_on_bit_for_bit_from_state_of_what_trains(
    layout: Layout, dtype: str, parts: tuple[str, ...], pool: WorkerPool, tmp_path: Path
) -> None:
    run = _stage(only(*parts), layout, dtype)
    straight = pool.run(layout.processes, jobs.train_and_save, run, tmp_path / "a", HALF, WHOLE)[0]
    (tmp_path / "b/checkpoints").mkdir(parents=True)
    shutil.move(tmp_path / f"a/checkpoints/step-{HALF:08d}", tmp_path / "b/checkpoints")
    other = replace(run, seed=99)
    _, losses, _ = pool.run(layout.processes, jobs.resume_and_train, other, tmp_path / "b", WHOLE, tmp_path / "c")[0]
    assert losses == straight[HALF:]
    expected, found = (_tensors(tmp_path / name, WHOLE, pool) for name in "ac")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    kinds = ("exp_avg", "exp_avg_sq", "fp32_param") if dtype == "bf16" else ("exp_avg", "exp_avg_sq")
    assert all(_parts_with_state(found, kind) == set(parts) for kind in kinds)


def test_a_stage_moves_to_another_layout(pool: WorkerPool, tmp_path: Path) -> None:
    rates = only("vision")
    straight = pool.run(2, jobs.train_and_save, _stage(rates, PP2), tmp_path, HALF, WHOLE)[0]
    shutil.rmtree(tmp_path / f"checkpoints/step-{WHOLE:08d}")
    _, losses, _ = pool.run(4, jobs.resume_and_train, _stage(rates, SHARDED, seed=9), tmp_path, WHOLE, tmp_path)[0]
    assert losses == pytest.approx(straight[HALF:], rel=1e-6)


def test_another_freezing_is_refused_and_told_how_to_go_on(pool: WorkerPool, tmp_path: Path) -> None:
    pool.run(1, jobs.train_and_save, _stage(only("ffn", "vision")), tmp_path, HALF)
    for rates, told in (
        (only("ffn", "vision", "attention"), ("(attention: trained now, without optimizer state in it)",)),
        (only("ffn"), ("(vision: frozen now, with optimizer state in it)",)),
        (only("norms", "output"), ("norms, output: trained now", "ffn, vision: frozen now")),
    ):
        (reached, message, _), *others = pool.run(2, jobs.try_to_resume, _stage(rates, PP2), tmp_path)
        assert reached is None and all(other[1] == message for other in others)
        place = tmp_path / f"checkpoints/step-{HALF:08d}"
        remedies = ("use its optim.rates", f"--set init.checkpoint={place}", "--set folder=...")
        for part in ("is of another training stage", *told, *remedies):
            assert part in message, message


def test_a_rate_may_change_between_save_and_resume(pool: WorkerPool, tmp_path: Path) -> None:
    pool.run(1, jobs.train_and_save, _stage(only("ffn", "vision")), tmp_path, HALF)
    reached, message, _ = pool.run(1, jobs.try_to_resume, _stage(only("ffn", "vision", rate=0.1)), tmp_path)[0]
    assert message == "" and reached is not None


def test_another_model_is_not_taken_for_another_stage() -> None:
    name = "decoder.layers.0.mlp.linear_fc1.weight"
    moments = {f"optimizer.state.exp_avg.{name}": (4, 2)}
    require_same_stage(Path("x"), {name: (4, 2), "output_layer.weight": (2, 2)}, {name: (4, 2), **moments})
    require_same_stage(Path("x"), {name: (8, 2)}, {name: (4, 2), **moments})
    require_same_stage(Path("x"), {name: (4, 2), **moments}, {name: (4, 2), **moments})
    with pytest.raises(CheckpointError, match="ffn: frozen now"):
        require_same_stage(Path("x"), {name: (4, 2)}, {name: (4, 2), **moments})
