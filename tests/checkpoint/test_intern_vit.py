"""InternViT from its folder, or from InternVL's: tokens equal its public forward pass, written out image by image."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import conv2d, gelu, interpolate, layer_norm, linear

from megatron_nmm.checkpoint.families import navil_vision
from megatron_nmm.checkpoint.hf_folder import HFFolder
from megatron_nmm.checkpoint.initialise import initialise
from megatron_nmm.config import InitConfig, ParallelConfig, RunConfig, VisionConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.build import build
from megatron_nmm.verify import layouts, synthetic
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.checkpoint import init_jobs

DEPTH, WIDTH, HEADS, FFN, PATCH, SIDE, HIDDEN = 2, 24, 2, 40, 8, 4, 64
EPSILON = 1e-6
CONFIG: dict[str, Any] = {
    "model_type": "internvl_chat",
    "downsample_ratio": 0.5,
    "ps_version": "v2",
    "select_layer": -1,
    "llm_config": {"hidden_size": HIDDEN, "architectures": ["Qwen2ForCausalLM"]},
    "vision_config": {
        "model_type": "intern_vit_6b",
        "num_hidden_layers": DEPTH,
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "intermediate_size": FFN,
        "patch_size": PATCH,
        "image_size": SIDE * PATCH + 3,
        "layer_norm_eps": EPSILON,
        "norm_type": "layer_norm",
        "qkv_bias": True,
        "qk_normalization": False,
    },
}
VISION = VisionConfig(
    depth=DEPTH,
    width=WIDTH,
    heads=HEADS,
    ffn=FFN,
    mlp="gelu",
    bias=True,
    qkv_bias=True,
    norm="layer",
    qk_norm=False,
    layer_scale=0.1,
    final_norm=False,
    norm_epsilon=EPSILON,
    positions="table",
    table_side=SIDE,
    class_token=True,
    connector="pixel_shuffle",
    patch=PATCH,
)
Weights = dict[str, torch.Tensor]


def _drawn() -> Weights:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> torch.Tensor:
        return 0.2 * torch.randn(*shape, generator=generator)

    def affine(name: str, rows: int, columns: int) -> Weights:
        return {f"{name}.weight": draw(rows, columns), f"{name}.bias": draw(rows)}

    def norm(name: str, width: int) -> Weights:
        return {f"{name}.weight": 1 + draw(width), f"{name}.bias": draw(width)}

    embeddings = "vision_model.embeddings"
    tensors = {
        f"{embeddings}.class_embedding": draw(1, 1, WIDTH),
        f"{embeddings}.position_embedding": draw(1, 1 + SIDE**2, WIDTH),
        f"{embeddings}.patch_embedding.weight": draw(WIDTH, 3, PATCH, PATCH),
        f"{embeddings}.patch_embedding.bias": draw(WIDTH),
        **norm("mlp1.0", 4 * WIDTH),
        **affine("mlp1.1", HIDDEN, 4 * WIDTH),
        **affine("mlp1.3", HIDDEN, HIDDEN),
        "language_model.model.embed_tokens.weight": draw(10, HIDDEN),
    }
    for layer in range(DEPTH):
        name = f"vision_model.encoder.layers.{layer}"
        tensors |= {
            f"{name}.ls1": draw(WIDTH),
            f"{name}.ls2": draw(WIDTH),
            **norm(f"{name}.norm1", WIDTH),
            **norm(f"{name}.norm2", WIDTH),
            **affine(f"{name}.attn.qkv", 3 * WIDTH, WIDTH),
            **affine(f"{name}.attn.proj", WIDTH, WIDTH),
            **affine(f"{name}.mlp.fc1", FFN, WIDTH),
            **affine(f"{name}.mlp.fc2", WIDTH, FFN),
        }
    return tensors


def _save(folder: Path, tensors: Weights, raw: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def _run(folder: Path, **changes: Any) -> RunConfig:
    run = layouts.toy(RunConfig())
    data = replace(run.data, image_rule="native", min_patches=4, max_patches=24)
    run = replace(run, folder=str(folder / "run"), init=InitConfig(vision_model=str(folder)), data=data)
    return replace(run, model=replace(run.model, vision=VISION), **changes)


def _tokens(place: Place, run: RunConfig, batch: Batch) -> torch.Tensor:
    with place.world(run.parallel, run.seed) as world:
        model: Any = build(run, world)
        initialise(run, model, world, lambda line: None)
        with torch.no_grad():
            found: torch.Tensor = model.module.vision_encoder(batch)
        return found


def _image(patches: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """[1, 3, H, W] of patches in merge groups of 2 x 2."""
    grid = patches.reshape(rows // 2, columns // 2, 2, 2, 3, PATCH, PATCH)
    return grid.permute(4, 0, 2, 5, 1, 3, 6).reshape(1, 3, rows * PATCH, columns * PATCH)


def _hidden(weights: Weights, image: torch.Tensor) -> torch.Tensor:
    """[1 + patches, w] last hidden state, the class token first and then patches row by row."""

    def affine(x: torch.Tensor, name: str) -> torch.Tensor:
        return linear(x, weights[f"vision_model.{name}.weight"], weights[f"vision_model.{name}.bias"])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = weights[f"vision_model.{name}.weight"], weights[f"vision_model.{name}.bias"]
        return layer_norm(x, [WIDTH], weight, bias, EPSILON)

    given = {name.rpartition("embeddings.")[2]: value for name, value in weights.items() if "embeddings." in name}
    features = conv2d(image, given["patch_embedding.weight"], given["patch_embedding.bias"], stride=PATCH)
    table = given["position_embedding"][0, 1:].reshape(1, SIDE, SIDE, WIDTH).permute(0, 3, 1, 2)
    features = features + interpolate(table, size=features.shape[2:], mode="bicubic", align_corners=False)
    first = given["class_embedding"][0] + given["position_embedding"][0, :1]
    x = torch.cat([first, features[0].flatten(1).T])
    for layer in range(DEPTH):
        name = f"encoder.layers.{layer}"
        packed = affine(norm(x, f"{name}.norm1"), f"{name}.attn.qkv")
        query, key, value = packed.reshape(len(x), 3, HEADS, -1).permute(1, 2, 0, 3)
        share = (query @ key.transpose(1, 2) * (WIDTH // HEADS) ** -0.5).softmax(-1)
        mixed = affine((share @ value).transpose(0, 1).flatten(1), f"{name}.attn.proj")
        x = x + mixed * weights[f"vision_model.{name}.ls1"]
        hidden = affine(gelu(affine(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
        x = x + hidden * weights[f"vision_model.{name}.ls2"]
    return x


def _reference(weights: Weights, batch: Batch) -> torch.Tensor:
    """InternVL's tokens: 2 x 2 patches side by side (its second version of the shuffle), then its connector."""
    tokens, patches = [], batch.patches
    for rows, columns in batch.grids.tolist():
        view, patches = patches[: rows * columns], patches[rows * columns :]
        x = _hidden(weights, _image(view, rows, columns))[1:].reshape(rows, columns // 2, 2 * WIDTH)
        x = x.transpose(0, 1).reshape(columns // 2, rows // 2, 4 * WIDTH).transpose(0, 1).reshape(-1, 4 * WIDTH)
        x = layer_norm(x, [4 * WIDTH], weights["mlp1.0.weight"], weights["mlp1.0.bias"])
        x = gelu(linear(x, weights["mlp1.1.weight"], weights["mlp1.1.bias"]))
        tokens.append(linear(x, weights["mlp1.3.weight"], weights["mlp1.3.bias"]))
    return torch.cat(tokens)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole InternVL model's folder, of which only the image part is read."""
    return _save(tmp_path_factory.mktemp("internvl"), _drawn(), CONFIG)


@pytest.mark.parametrize("parallel", [ParallelConfig(), ParallelConfig(tensor=2, sequence=True, vision="tensor")])
def test_tokens_are_those_of_the_public_forward_pass(parallel: ParallelConfig, folder: Path, pool: WorkerPool) -> None:
    run = _run(folder, parallel=parallel)
    batch = synthetic.batches(run, 1, seed=2)[0]
    assert len({tuple(grid) for grid in batch.grids.tolist()} - {(SIDE, SIDE)}) > 1
    expected = _reference(load_file(folder / "model.safetensors"), batch)
    for found in pool.run(parallel.tensor, _tokens, run, batch):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_an_encoder_alone_and_its_hidden_state(folder: Path, pool: WorkerPool, tmp_path: Path) -> None:
    """A connector of one matrix, the identity, shows the last hidden state of every patch."""
    tensors = {
        name.removeprefix("vision_model."): value
        for name, value in load_file(folder / "model.safetensors").items()
        if name.startswith("vision_model.")
    }
    alone = _save(tmp_path / "vit", tensors, CONFIG["vision_config"])
    run = _run(alone)
    run = replace(run, model=replace(run.model, vision=replace(VISION, connector="linear")))
    batch = synthetic.batches(run, 1, seed=2)[0]
    ((found, said),) = pool.run(1, _hidden_state, run, batch)
    assert said[0] == f"first weights of the vision encoder from {alone}: {4 + DEPTH * 14} tensors"
    assert said[1] == "vit has no connector for this decoder: drawn at random"
    weights, patches = load_file(folder / "model.safetensors"), batch.patches
    for rows, columns in batch.grids.tolist():
        view, patches = patches[: rows * columns], patches[rows * columns :]
        grid = view.reshape(rows, columns, 3, PATCH, PATCH)
        image = grid.permute(2, 0, 3, 1, 4).reshape(1, 3, rows * PATCH, columns * PATCH)
        expected, got = _hidden(weights, image)[1:], found[: rows * columns]
        found = found[rows * columns :]
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def _hidden_state(place: Place, run: RunConfig, batch: Batch) -> tuple[torch.Tensor, list[str]]:
    said: list[str] = []
    with place.world(run.parallel, run.seed) as world:
        model: Any = build(run, world)
        initialise(run, model, world, said.append)
        encoder = model.module.vision_encoder
        encoder.connector = torch.nn.Identity()
        with torch.no_grad():
            return encoder(batch), said


@pytest.mark.parametrize(
    ("change", "taken"),
    [({}, True), ({"ps_version": "v1"}, False), ({"llm_config": {"hidden_size": 32}}, False)],
    ids=["this decoder's", "columns first", "another decoder's"],
)
def test_the_connector_comes_along_where_it_fits(
    change: dict[str, Any], taken: bool, folder: Path, pool: WorkerPool, tmp_path: Path
) -> None:
    other = _save(tmp_path / "chat", load_file(folder / "model.safetensors"), {**CONFIG, **change})
    ((found, _, said),) = pool.run(1, init_jobs.initialised, _run(other))
    theirs = load_file(folder / "model.safetensors")
    assert torch.equal(found["vision_encoder.connector.fc2.weight"], theirs["mlp1.3.weight"]) == taken
    assert (len(said) == 1) == taken


def test_every_row_goes_back(folder: Path) -> None:
    stored = HFFolder(folder)
    rows = navil_vision.rows(replace(layouts.toy(RunConfig()).model, vision=VISION), CONFIG)
    for row in rows:
        theirs = [stored.read(name) for name in row.theirs]
        again = row.cut(row.join(theirs))
        assert all(torch.equal(one, other) for one, other in zip(again, theirs, strict=True)), row.ours
    read = {name for row in rows for name in row.theirs}
    assert stored.shapes.keys() - read == {"language_model.model.embed_tokens.weight"}


def test_another_shape_and_missing_tensors_are_refused(folder: Path, pool: WorkerPool, tmp_path: Path) -> None:
    run = _run(folder)
    other = replace(run, model=replace(run.model, vision=replace(VISION, table_side=5, norm="rms", class_token=False)))
    ((message, unchanged),) = pool.run(1, init_jobs.refused, other)
    assert unchanged
    for remedy in ("table_side=4", "norm=layer", "class_token=true"):
        assert f"--set model.vision.{remedy}" in message
    tensors = load_file(folder / "model.safetensors")
    del tensors["vision_model.embeddings.class_embedding"]
    tensors["vision_model.encoder.layers.0.attn.qkv.bias"] = torch.zeros(3)
    ((message, unchanged),) = pool.run(1, init_jobs.refused, _run(_save(tmp_path / "part", tensors, CONFIG)))
    assert unchanged and "vision_model.embeddings.class_embedding" in message and "attn.qkv.bias" in message
