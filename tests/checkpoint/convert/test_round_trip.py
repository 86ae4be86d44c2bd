"""Training -> Hugging Face -> training: the same bits, from any layout, and the same losses afterwards."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from megatron_nmm.checkpoint.convert import native_config
from megatron_nmm.checkpoint.convert.from_hf import from_hf
from megatron_nmm.checkpoint.convert.stored import StoredWeights
from megatron_nmm.checkpoint.convert.to_hf import to_hf
from megatron_nmm.checkpoint.families.shapes import shapes
from megatron_nmm.checkpoint.hf_folder import INDEX, HFFolder
from megatron_nmm.config import VisionConfig
from megatron_nmm.verify.workers import WorkerPool
from tests.checkpoint import jobs
from tests.checkpoint.convert import models


def _weights(place: Path) -> dict[str, torch.Tensor]:
    stored = StoredWeights(place, print)
    return {name: stored.read(name) for name in stored.shapes}


def _same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype and torch.equal(value, right[name]), name


@pytest.mark.parametrize("form", models.FORMS)
def test_there_and_back_to_the_bit(form: str, pool: WorkerPool, tmp_path: Path) -> None:
    run, said = models.run_of(form), list[str]()
    pool.run(models.processes_of(form), jobs.train_and_save, run, tmp_path / "run", 1)
    trained = StoredWeights(tmp_path / "run", print)
    assert trained.shapes == shapes(run.model, trained.shapes), "the table of shapes is that of the model"

    out = tmp_path / "hf"
    exported = to_hf(tmp_path / "run", out, "native_multimodal", "stored", None, said.append, largest=40_000)
    assert (out / INDEX).exists() and exported.mapped == len(trained.shapes)
    back = from_hf(out, tmp_path / "back", "stored", said.append)
    assert said == [f"{len(trained.shapes)} mapped, 0 missing, 0 unexpected"] * 2
    _same(_weights(tmp_path / "run"), _weights(back))

    one = models.alone(run)
    step, loaded = pool.run(1, jobs.weights_of, replace(one, seed=9), back)[0]
    assert step == 0
    _same({name: value.float() for name, value in _weights(back).items()}, _floats(loaded))
    expected = pool.run(1, models.first_losses, one, tmp_path / "run")[0]
    assert pool.run(1, models.first_losses, one, tmp_path / "back")[0] == expected


def _floats(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in tensors.items()}


def test_the_form_of_its_configuration_comes_back(pool: WorkerPool, tmp_path: Path) -> None:
    for form in ("NaViL of Qwen3", "sparse in part"):
        run = models.run_of(form)
        pool.run(models.processes_of(form), jobs.train_and_save, run, tmp_path / form, 1)
        to_hf(tmp_path / form, tmp_path / f"hf {form}", "native_multimodal", "fp32", None, print)
        back = StoredWeights(from_hf(tmp_path / f"hf {form}", tmp_path / f"back {form}", "bf16", print), print)
        assert set(back.dtypes.values()) == {torch.bfloat16}
        model, again = run.model, back.progress.config["model"]
        assert isinstance(again, dict)
        for key in ("layers", "width", "heads", "modality_experts", "image_mask", "qk_norm", "norm_epsilon"):
            assert again[key] == getattr(model, key)
        assert again["query_groups"] == model.kv_heads and again["head_dim"] == model.head_width
        assert tuple(again["sparse"]["dense_layers"]) == model.sparse.dense_layers or not model.sparse.experts
        assert again["vision"]["depth"] == model.vision.depth


def test_every_setting_of_an_encoder_comes_back_and_those_that_older_exports_lack_are_the_defaults() -> None:
    for form, newer in (("InternViT", False), ("late", True)):
        run = models.run_of(form)
        raw = native_config.config_json(run)
        if newer:
            for name in ("norm", "qkv_bias", "positions", "table_side", "class_token"):
                del raw["vision_config"][name]
        found = native_config.settings(raw)
        for key in (name for name in found if name.startswith("model.vision.")):
            assert found[key] == native_config.at(run, key) or key == "model.vision.ffn", key
        assert len([name for name in found if name.startswith("model.vision.")]) == len(fields(VisionConfig))


def test_number_formats_are_chosen_and_the_load_bias_keeps_its_own(pool: WorkerPool, tmp_path: Path) -> None:
    run = models.run_of("sparse")
    pool.run(models.processes_of("sparse"), jobs.train_and_save, run, tmp_path / "run", 1)
    for dtype, word in (("fp32", "F32"), ("bf16", "BF16")):
        to_hf(tmp_path / "run", tmp_path / dtype, "native_multimodal", dtype, None, print)
        for name, found in HFFolder(tmp_path / dtype).formats.items():
            assert found == ("F32" if name.endswith("e_score_correction_bias") else word), name
