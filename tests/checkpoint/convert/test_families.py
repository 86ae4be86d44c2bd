"""Folders of other families, in and out: the same tensors, and the scores of the originals' own code."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megatron_nmm.checkpoint.convert.from_hf import from_hf
from megatron_nmm.checkpoint.convert.stored import StoredWeights
from megatron_nmm.checkpoint.convert.to_hf import run_of, to_hf
from megatron_nmm.config import ModelConfig, ParallelConfig, RunConfig, SparseConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.rule import SPECIAL_ROWS
from megatron_nmm.errors import CheckpointError
from megatron_nmm.verify import layouts, synthetic
from megatron_nmm.verify.workers import WorkerPool
from tests.checkpoint import hf_models
from tests.checkpoint.convert import models, navil_reference
from tests.checkpoint.convert.synthetic import checkpoint_of

SPARSE = SparseConfig(experts=4, top_k=2, ffn=24, normalise=True, dense_layers=(1,))
MOE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
    "mlp_only_layers": [1],
    "head_dim": 8,
}
TEXT: dict[str, dict[str, Any]] = {"qwen3": {}, "qwen3_moe": MOE, "llama": {}, "internlm2": {}}
"""Kind -> values of its config.json."""


def _save(kind: str, folder: Path) -> Path:
    if kind != "qwen3_moe":
        return hf_models.save(kind, folder)
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(7)
    rope = {"rope_type": "default", "rope_theta": hf_models.BASE}
    made = Qwen3MoeForCausalLM(Qwen3MoeConfig(**hf_models.SHAPE, **MOE, rope_parameters=rope))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made.save_pretrained(folder)
    return folder


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def _small(run: RunConfig) -> RunConfig:
    """``run`` with rows as short as the toys' are."""
    toy = layouts.toy(run)
    data = replace(toy.data, image_rule=run.data.image_rule, image_size=2 * run.model.vision.patch)
    return replace(toy, model=run.model, data=data)


def _documents(batch: Batch) -> Iterator[tuple[int, slice]]:
    for row, starts in enumerate(batch.document_starts.tolist()):
        for start, end in pairwise(starts):
            if end > start and start < batch.filled[row]:
                yield row, slice(start, end)


def _close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", TEXT)
def test_text_models_in_and_out(kind: str, pool: WorkerPool, tmp_path: Path) -> None:
    """In: scores are the originals'. Out: the tensors that came in, to the bit, and a folder its own code loads."""
    folder, said = _save(kind, tmp_path / kind), list[str]()
    checkpoint = from_hf(folder, tmp_path / "in", "stored", said.append)
    run = _small(run_of(StoredWeights(checkpoint, print)))
    batch = synthetic.batches(run, 1, seed=3, images=False)[0]
    reference = hf_models.reference(kind, folder)
    for parallel in (ParallelConfig(), ParallelConfig(tensor=2, sequence=True)):
        if run.model.sparse_layers and parallel.tensor > 1:
            parallel = ParallelConfig(expert=2)
        found = pool.run(parallel.processes, models.scores, replace(run, parallel=parallel), tmp_path / "in", batch)[0]
        for row, place in _documents(batch):
            _close(found[row, place], reference(batch.tokens[row, place]))

    to_hf(tmp_path / "in", tmp_path / "out", kind, "stored", None, said.append)
    before, after = _tensors(folder), _tensors(tmp_path / "out")
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())
    assert said == [f"{len(StoredWeights(checkpoint, print).shapes)} mapped, 0 missing, 0 unexpected"] * 2
    again = hf_models.reference(kind, tmp_path / "out")
    row, place = next(_documents(batch))
    assert torch.equal(again(batch.tokens[row, place]), reference(batch.tokens[row, place]))


def test_the_text_of_a_multimodal_model_is_a_language_model(pool: WorkerPool, tmp_path: Path) -> None:
    model = ModelConfig(layers=2, width=32, heads=4, query_groups=2, ffn=48, vocabulary=128, vision=models.LATE)
    run = replace(layouts.toy(RunConfig()), model=model)
    checkpoint_of(run, tmp_path / "run")
    said: list[str] = []
    to_hf(tmp_path / "run", tmp_path / "out", "qwen3", "stored", None, said.append)
    assert said == ["19 mapped, 0 missing, 0 unexpected, 23 of the image part left out"]
    batch = synthetic.batches(run, 1, seed=3, images=False)[0]
    found = pool.run(1, models.scores, run, tmp_path / "run", batch)[0]
    reference = hf_models.reference("qwen3", tmp_path / "out")
    for row, place in _documents(batch):
        _close(found[row, place], reference(batch.tokens[row, place]))


@pytest.mark.parametrize("variant", ["NaViL of Qwen3", "NaViL of InternLM2"])
def test_navil_out_and_in(variant: str, pool: WorkerPool, tmp_path: Path) -> None:
    """Ours scores as a plain NaViL does with the exported tensors, and as ours does with what comes back in."""
    run = models.alone(models.run_of(variant))
    run = replace(run, precision=replace(run.precision, dtype="fp32"))
    checkpoint_of(run, tmp_path / "run")
    to_hf(tmp_path / "run", tmp_path / "navil", "navil_chat", "stored", None, print)
    batch = synthetic.batches(run, 1, seed=5)[0]
    found = pool.run(1, models.scores, run, tmp_path / "run", batch)[0]
    weights, config = _tensors(tmp_path / "navil"), json.loads((tmp_path / "navil/config.json").read_text())
    assert config["llm_config"]["architectures"] == [variant.split()[-1] + "VEForCausalLM"]
    special = {synthetic.SPECIAL[name]: row for name, row in SPECIAL_ROWS.items()}
    ids = (special, synthetic.IMAGE_TOKEN, synthetic.SPECIAL["begin_of_image"])
    with_images = 0
    for row, place in _documents(batch):
        views = list(_views(batch, row, place))
        with_images += bool(views)
        expected = navil_reference.scores(weights, config, batch.tokens[row, place], *ids, views)
        assert (found[row, place] - expected).abs().max() <= 3e-5 * expected.abs().max()
    assert with_images > 1

    from_hf(tmp_path / "navil", tmp_path / "back", "stored", print)
    again = _small(run_of(StoredWeights(tmp_path / "back", print)))
    assert again.model.modality_experts == "all" and again.model.image_mask == "causal"
    _close(pool.run(1, models.scores, again, tmp_path / "back", batch)[0], found)
    exact = {name for name in weights if not name.endswith("wo_ve.weight")}
    to_hf(tmp_path / "back", tmp_path / "twice", "navil_chat", "stored", None, print)
    twice = _tensors(tmp_path / "twice")
    assert twice.keys() == weights.keys() and all(torch.equal(weights[name], twice[name]) for name in exact)


def _views(batch: Batch, row: int, place: slice) -> Iterator[tuple[torch.Tensor, int, int]]:
    """Patches, rows and columns of every view in a document."""
    first = 0
    for (of_row, start, _), (rows, columns) in zip(batch.image_blocks.tolist(), batch.grids.tolist(), strict=True):
        if of_row == row and place.start <= start < place.stop:
            yield batch.patches[first : first + rows * columns], rows, columns
        first += rows * columns


@pytest.mark.parametrize(
    ("form", "family", "told"),
    [
        ("early", "navil_chat", ("model.modality_experts is none, that form has all", "model.vision.depth is 0")),
        (
            "InternViT",
            "navil_chat",
            (
                "model.vision.qkv_bias is True, that form has False",
                "model.vision.norm is layer, that form has rms",
                "model.vision.positions is table, that form has rotary",
            ),
        ),
        ("early", "llama", ("model.qk_norm is True, that form has False",)),
        ("sparse", "qwen3", ("model.sparse.experts is 4, that form has 0",)),
        ("sparse", "qwen3_moe", ("model.sparse.bias_rate is 0.01, that form has 0.0",)),
        ("NaViL of Qwen3", "qwen3", ("model.modality_experts is all, that form has none",)),
    ],
)
def test_what_a_family_cannot_say_is_refused(form: str, family: str, told: tuple[str, ...], tmp_path: Path) -> None:
    checkpoint_of(models.run_of(form), tmp_path / "run")
    with pytest.raises(CheckpointError, match=f"cannot be written as {family}") as refused:
        to_hf(tmp_path / "run", tmp_path / "out", family, "stored", None, print)
    assert all(part in str(refused.value) for part in told) and not (tmp_path / "out").exists()
