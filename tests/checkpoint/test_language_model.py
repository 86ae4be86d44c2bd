"""Decoders from Hugging Face folders: the same scores as transformers, in every layout, and named refusals."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_nmm.config import ParallelConfig
from megatron_nmm.verify.workers import WorkerPool
from tests.checkpoint import hf_models, init_jobs

KINDS = ("qwen3", "llama", "internlm2")
LAYOUTS = {"TP2+SP": ParallelConfig(tensor=2, sequence=True), "PP2": ParallelConfig(pipeline=2)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder of each kind."""
    root = tmp_path_factory.mktemp("hf")
    return {kind: hf_models.save(kind, root / kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_original(kind: str, folders: dict[str, Path], pool: WorkerPool) -> None:
    run = hf_models.run_of(kind, folders[kind])
    batch = hf_models.text_batch(run)
    ((_, scores, said),) = pool.run(1, init_jobs.initialised, run, batch)
    reference = hf_models.reference(kind, folders[kind])
    for row, place in hf_models.documents(batch):
        expected = reference(batch.tokens[row, place])
        found = scores[row, place, : hf_models.VOCABULARY]
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert said == [
        f"first weights of the decoder from {folders[kind]} ({kind}): {19 if kind == 'qwen3' else 15} tensors",
        f"{kind} has no patch stem: drawn at random",
        "the last 28 of 128 vocabulary rows are not in it: drawn at random",
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gets_the_same_weights(layout: str, tmp_path: Path, pool: WorkerPool) -> None:
    """Several shards, tied embeddings, bf16 on disk; a rank holds the end of the folder's vocabulary in its middle."""
    folder = tmp_path / "tied"
    hf_models.save("qwen3", folder, tie_word_embeddings=True, dtype="bfloat16", max_shard_size="8KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    run = hf_models.run_of("qwen3", folder, tie_embeddings=True)
    ((expected, _, _),) = pool.run(1, init_jobs.initialised, run)
    (found, _, said), (_, _, silent) = pool.run(2, init_jobs.initialised, replace(run, parallel=LAYOUTS[layout]))
    assert len(said) == 3 and silent == []
    assert found.keys() == expected.keys() and "output_layer.weight" not in found
    for name in expected:
        if not name.startswith("patch_stem."):  # as drawn, and layouts draw differently
            rows = hf_models.VOCABULARY if name.startswith("embedding.") else None
            assert torch.equal(found[name][:rows], expected[name][:rows]), name


@pytest.mark.parametrize("experts", ["ffn", "all"])
def test_visual_experts_begin_as_copies_and_text_does_not_notice(
    experts: str, folders: dict[str, Path], pool: WorkerPool
) -> None:
    run = hf_models.run_of("qwen3", folders["qwen3"])
    batch = hf_models.text_batch(run)
    ((_, dense, _),) = pool.run(1, init_jobs.initialised, run, batch)
    grown = hf_models.run_of("qwen3", folders["qwen3"], modality_experts=experts, special_embeddings=True)
    ((weights, scores, said),) = pool.run(1, init_jobs.initialised, grown, batch)
    known = slice(hf_models.VOCABULARY)  # the other rows are drawn, after more weights than before
    assert torch.equal(scores[..., known], dense[..., known]), "not a bit of text's scores changes"
    visual = [name for name in weights if ".visual." in name]
    assert len(visual) == {"ffn": 2 * 2, "all": 2 * 6}[experts]
    assert all(torch.equal(weights[name], weights[name.replace(".visual.", ".")]) for name in visual)
    assert "qwen3 has no MLPs of visual experts: they begin as 4 copies of text weights" in said
    attention = "qwen3 has no attention weights of visual experts: they begin as 8 copies of text weights"
    assert (attention in said) == (experts == "all")
    assert "qwen3 has no special embeddings: drawn at random" in said


def test_a_rank_reads_what_it_holds_and_nothing_twice(folders: dict[str, Path], pool: WorkerPool) -> None:
    """Also where visual experts are filled from the same tensors as the text's."""
    run = hf_models.run_of("llama", folders["llama"], modality_experts="all")
    first, second = pool.run(2, init_jobs.read_by_rank, replace(run, parallel=LAYOUTS["PP2"]))
    names = set(load_file(folders["llama"] / "model.safetensors"))
    assert sorted(first + second) == sorted(names), "each tensor once, on one stage"
    assert {name for name in first if ".layers." not in name} == {"model.embed_tokens.weight"}
    assert {name.split(".")[2] for name in second if ".layers." in name} == {"1"}


def _without(folder: Path, *names: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in tensors.items() if name not in names}, folder / "model.safetensors")


def _reshaped(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "model.layers.1.attention.wo.weight": torch.zeros(32, 16)}, folder / "model.safetensors")


def _with_another(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "model.layers.0.attention.wqkv.bias": torch.zeros(64)}, folder / "model.safetensors")


def _cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def _as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _without_a_listed_tensor(folder: Path) -> None:
    _without(folder, "output.weight")
    _indexed(folder, "model.safetensors")


def _indexed(folder: Path, file: str) -> None:
    names = load_file(folder / "model.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model.safetensors") | {"output.weight": file}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


DAMAGE: dict[str, tuple[Any, str]] = {
    "a tensor is missing": (
        lambda folder: _without(folder, "model.layers.0.feed_forward.w3.weight"),
        "model.layers.0.feed_forward.w3.weight (for decoder.layers.0.mlp.linear_fc1.weight) is missing",
    ),
    "a wrong shape": (
        _reshaped,
        "model.layers.1.attention.wo.weight has shape (32, 16), decoder.layers.1.self_attention.linear_proj.weight "
        "wants (32, 32)",
    ),
    "a tensor without a place": (_with_another, "model.layers.0.attention.wqkv.bias has no place in this model"),
    "cut short": (_cut_short, "model.safetensors cannot be read"),
    "a pickle": (_as_pickle, "it holds pytorch_model.bin, a pickle, which could run code"),
    "a missing shard": (
        lambda folder: _indexed(folder, "model-00002-of-00002.safetensors"),
        "lacks model-00002-of-00002.safetensors of the 2 files its index lists",
    ),
    "a file outside": (lambda folder: _indexed(folder, "../x.safetensors"), "'../x.safetensors', which is not a plain"),
    "a shard without its tensor": (
        _without_a_listed_tensor,
        "lists tensors that its files do not hold: output.weight (of model.safetensors)",
    ),
    "another width": (
        lambda folder: (folder / "config.json").write_text((folder / "config.json").read_text().replace("48", "64")),
        "model.ffn is 48, init.language_model FOLDER has 64; use --set model.ffn=64",
    ),
}
"""What is done to a folder -> what the message says."""


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_wrong_is_named_on_every_rank_and_nothing_is_changed(
    damage: str, folders: dict[str, Path], tmp_path: Path, pool: WorkerPool
) -> None:
    folder = tmp_path / "internlm2"
    shutil.copytree(folders["internlm2"], folder)
    act, told = DAMAGE[damage]
    act(folder)
    run = replace(hf_models.run_of("internlm2", folder), parallel=LAYOUTS["PP2"])
    (message, unchanged), other = pool.run(2, init_jobs.refused, run)
    assert told.replace("FOLDER", str(folder)) in message
    assert unchanged and other == (message, True)
