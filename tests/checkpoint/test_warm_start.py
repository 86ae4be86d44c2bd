"""A stage begins with the weights of the one before, also where its model has new parts; and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_nmm.config import InitConfig, ParallelConfig, RunConfig, VisionConfig
from megatron_nmm.verify.layouts import LAYOUTS, SINGLE
from megatron_nmm.verify.workers import WorkerPool
from tests.checkpoint import init_jobs, jobs

BY_NAME = {layout.name: layout for layout in LAYOUTS}
VISION = VisionConfig(depth=1, width=16, heads=2, ffn=24, patch=8)
STEPS = 2
SAVED = f"step-{STEPS:08d}"


def _toy(**changes: Any) -> RunConfig:
    """Without q/k-norms, so that no tensor's shape tells the number of heads."""
    run = jobs.toy(SINGLE)
    return replace(run, model=replace(run.model, **{"qk_norm": False, **changes}))


def _from(place: Path, run: RunConfig, **changes: Any) -> RunConfig:
    return replace(run, seed=99, init=InitConfig(checkpoint=str(place)), **changes)


@pytest.fixture(scope="module")
def early(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an early-fusion run on two tensor ranks."""
    folder = tmp_path_factory.mktemp("early")
    pool.run(2, jobs.train_and_save, replace(_toy(), parallel=BY_NAME["TP2"].parallel), folder, STEPS)
    return folder


@pytest.fixture(scope="module")
def trained(pool: WorkerPool, early: Path) -> dict[str, torch.Tensor]:
    """Its weights."""
    found = pool.run(1, jobs.tensors, early / "checkpoints" / SAVED)[0]
    return {name: value for name, value in found.items() if not name.startswith("optimizer.")}


@pytest.mark.parametrize(
    ("name", "dtype"), [("one process", "fp32"), ("one process", "bf16"), ("PP2", "fp32"), ("TP2+SP", "bf16")]
)
def test_the_same_model_gets_every_weight(
    name: str, dtype: str, early: Path, trained: dict[str, torch.Tensor], pool: WorkerPool
) -> None:
    layout = {**BY_NAME, SINGLE.name: SINGLE}[name]
    run = _from(early, _toy(), parallel=layout.parallel)
    run = replace(run, precision=replace(run.precision, dtype=dtype))  # type: ignore[arg-type]
    found, _, said = pool.run(layout.processes, init_jobs.initialised, run)[0]
    assert found.keys() == trained.keys()
    for key, value in trained.items():
        assert torch.equal(found[key], value.to({"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]).float()), key
    assert said == [f"first weights from {early / 'checkpoints' / SAVED}: {len(trained)} tensors"]


@pytest.mark.parametrize("name", ["one process", "TP2", "PP2"])
def test_an_early_fusion_run_becomes_navil(
    name: str, early: Path, trained: dict[str, torch.Tensor], pool: WorkerPool
) -> None:
    """Encoder, modality experts and special embeddings at once; a checkpoint's own folder is as good as its run's."""
    layout = {**BY_NAME, SINGLE.name: SINGLE}[name]
    grown = _toy(vision=VISION, modality_experts="all", special_embeddings=True)
    run = _from(early / "checkpoints" / SAVED, grown, parallel=layout.parallel)
    found, _, said = pool.run(layout.processes, init_jobs.initialised, run)[0]
    drawn = pool.run(layout.processes, init_jobs.drawn, run)[0]
    for key, value in found.items():
        new = key.startswith(("vision_encoder.", "special_embedding."))
        assert torch.equal(value, drawn[key] if new else trained[key.replace(".visual.", ".")]), key
    assert said == [
        f"first weights from {early / 'checkpoints' / SAVED}: {len(trained) - 2} tensors",
        f"{SAVED} has no attention weights of visual experts: they begin as 4 copies of text weights",
        f"{SAVED} has no MLPs of visual experts: they begin as 4 copies of text weights",
        f"{SAVED} has no vision encoder: drawn at random",
        f"{SAVED} has no special embeddings: drawn at random",
        f"the patch stem in {SAVED} is not used: this model has an encoder",
    ]


def test_experts_that_are_there_are_kept(pool: WorkerPool, tmp_path: Path) -> None:
    """From MLP experts to experts everywhere: only the attention's begin as copies."""
    pool.run(1, jobs.train_and_save, _toy(modality_experts="ffn"), tmp_path, STEPS)
    saved = pool.run(1, jobs.tensors, tmp_path / "checkpoints" / SAVED)[0]
    run = _from(tmp_path, _toy(modality_experts="all"))
    found, _, said = pool.run(1, init_jobs.initialised, run)[0]
    learnt = "decoder.layers.0.mlp.visual.linear_fc1.weight"
    assert torch.equal(found[learnt], saved[learnt]) and not torch.equal(
        saved[learnt], saved[learnt.replace("visual.", "")]
    )
    copied = "decoder.layers.1.self_attention.visual.linear_proj.weight"
    assert torch.equal(found[copied], saved[copied.replace("visual.", "")])
    assert len(said) == 2


def test_a_changed_setting_that_no_tensor_shows_is_told(early: Path, pool: WorkerPool) -> None:
    _, _, said = pool.run(1, init_jobs.initialised, _from(early, _toy(rope_base=5e5, image_mask="causal")))[0]
    assert said[1:] == [
        f"note: model.rope_base was 10000.0 in {SAVED}, now 500000.0",
        f"note: model.image_mask was bidirectional in {SAVED}, now causal",
    ]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "deeper": ({"layers": 3}, "decoder.layers.2.input_layernorm.weight is not in it"),
    "shallower": ({"layers": 1}, "decoder.layers.1.input_layernorm.weight is in it, but not in this model"),
    "wider": ({"ffn": 64}, "decoder.layers.0.mlp.linear_fc1.weight has shape (96, 32), this model wants (128, 32)"),
    "tied": ({"tie_embeddings": True}, "output_layer.weight is in it, but not in this model"),
    "heads": (
        {"heads": 8},
        "was trained with other heads: model.heads was 4, now 8; model.query_groups was 4, now 8; model.head_dim was "
        "8, now 4. Its weights fit and would mean nothing; use --set model.heads=4 --set model.query_groups=4 --set "
        "model.head_dim=8",
    ),
}


@pytest.mark.parametrize("change", REFUSED)
def test_another_model_is_refused_on_every_rank_and_nothing_is_changed(
    change: str, early: Path, pool: WorkerPool
) -> None:
    changes, told = REFUSED[change]
    parallel = ParallelConfig(pipeline=1 if change == "shallower" else 2)
    run = _from(early, _toy(**changes), parallel=parallel)
    results = pool.run(1 if change == "shallower" else 2, init_jobs.refused, run)
    assert len(set(results)) == 1
    assert told in results[0][0] and results[0][1], results[0][0]


@pytest.fixture(scope="module")
def late(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with an encoder, whose images two tensor ranks share."""
    folder = tmp_path_factory.mktemp("late")
    run = replace(_toy(vision=VISION), parallel=ParallelConfig(tensor=2, vision="data"))
    pool.run(2, jobs.train_and_save, run, folder, STEPS)
    return folder


@pytest.mark.parametrize("vision", ["data", "tensor"])
def test_an_encoder_moves_between_both_ways_to_share_it(vision: Any, late: Path, pool: WorkerPool) -> None:
    saved = pool.run(1, jobs.tensors, late / "checkpoints" / SAVED)[0]
    run = _from(late, _toy(vision=VISION), parallel=ParallelConfig(tensor=2, vision=vision))
    (found, _, _), _ = pool.run(2, init_jobs.initialised, run)
    assert any(name.startswith("vision_encoder.") for name in found)
    assert all(torch.equal(value, saved[name]) for name, value in found.items())


def test_an_encoder_is_not_dropped_in_silence(late: Path, pool: WorkerPool) -> None:
    ((message, _),) = pool.run(1, init_jobs.refused, _from(late, _toy()))
    assert "vision_encoder." in message and "is in it, but not in this model" in message


def test_a_folder_without_checkpoints_is_named(pool: WorkerPool, tmp_path: Path) -> None:
    ((missing, _),) = pool.run(1, init_jobs.refused, _from(tmp_path / "none", _toy()))
    assert f"init.checkpoint {tmp_path / 'none'} is not a folder" in missing
    ((empty, _),) = pool.run(1, init_jobs.refused, _from(tmp_path, _toy()))
    assert f"init.checkpoint {tmp_path} holds no checkpoint; name a run's folder" in empty
