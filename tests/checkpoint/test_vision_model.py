"""NaViL's vision encoder from its folder: tokens equal a plain reference, however tensor ranks share it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_nmm.checkpoint.initialise import initialise
from megatron_nmm.config import InitConfig, ParallelConfig, RunConfig, VisionConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.build import build
from megatron_nmm.verify import layouts, synthetic
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.checkpoint import hf_models, init_jobs

DEPTH, WIDTH, HEADS, FFN, PATCH, HIDDEN = 2, 24, 3, 40, 8, 64
EPSILON = 1e-6
CONFIG: dict[str, Any] = {
    "model_type": "navil_chat",
    "downsample_ratio": 0.5,
    "llm_config": {"hidden_size": HIDDEN, "architectures": ["InternLM2VEForCausalLM"]},
    "vision_config": {
        "num_hidden_layers": DEPTH,
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "intermediate_size": FFN,
        "patch_size": PATCH,
        "layer_norm_eps": EPSILON,
        "qk_normalization": False,
        "fullatt_block_indexes": None,
    },
}
VISION = VisionConfig(
    depth=DEPTH,
    width=WIDTH,
    heads=HEADS,
    ffn=FFN,
    mlp="gelu",
    bias=True,
    qk_norm=False,
    layer_scale=0.1,
    final_norm=False,
    norm_epsilon=EPSILON,
    connector="pixel_shuffle",
    patch=PATCH,
)


def _save(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> torch.Tensor:
        return 0.2 * torch.randn(*shape, generator=generator)

    def affine(name: str, rows: int, columns: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": draw(rows, columns), f"{name}.bias": draw(rows)}

    merged = 4 * WIDTH
    tensors = {
        "vision_model.embeddings.patch_embedding.weight": draw(WIDTH, 3, PATCH, PATCH),
        "vision_model.embeddings.patch_embedding.bias": draw(WIDTH),
        "mlp1.0.weight": 1 + draw(merged),
        "mlp1.0.bias": draw(merged),
        **affine("mlp1.1", HIDDEN, merged),
        **affine("mlp1.3", HIDDEN, HIDDEN),
        "special_token_embedding.weight": draw(12, HIDDEN),
        "language_model.model.tok_embeddings.weight": draw(10, HIDDEN),
    }
    for layer in range(DEPTH):
        name = f"vision_model.encoder.layers.{layer}"
        tensors |= {
            f"{name}.norm1.weight": 1 + draw(WIDTH),
            f"{name}.norm2.weight": 1 + draw(WIDTH),
            f"{name}.ls1": draw(WIDTH),
            f"{name}.ls2": draw(WIDTH),
            f"{name}.attn.qkv.weight": draw(3 * WIDTH, WIDTH),
            **affine(f"{name}.attn.proj", WIDTH, WIDTH),
            **affine(f"{name}.mlp.fc1", FFN, WIDTH),
            **affine(f"{name}.mlp.fc2", WIDTH, FFN),
        }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def _run(folder: Path, **changes: Any) -> RunConfig:
    run = layouts.toy(RunConfig())
    model = replace(run.model, vision=VISION, special_embeddings=True)
    data = replace(run.data, image_rule="native", min_patches=4, max_patches=24)
    run = replace(run, folder=str(folder / "run"), init=InitConfig(vision_model=str(folder)), data=data, model=model)
    return replace(run, **changes)


def _tokens(place: Place, run: RunConfig, batch: Batch) -> torch.Tensor:
    with place.world(run.parallel, run.seed) as world:
        model: Any = build(run, world)
        initialise(run, model, world, lambda line: None)
        with torch.no_grad():
            found: torch.Tensor = model.module.vision_encoder(batch)
        return found


def _reference(weights: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    """NaViL's encoder view by view as its released code describes it; patches come in merge groups of 2 x 2."""
    views = batch.patches.split([rows * columns for rows, columns in batch.grids.tolist()])
    return torch.cat(
        [
            _view(weights, patches, rows, columns)
            for patches, (rows, columns) in zip(views, batch.grids.tolist(), strict=True)
        ]
    )


def _view(weights: dict[str, torch.Tensor], patches: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    place = torch.arange(rows * columns).reshape(rows // 2, 2, columns // 2, 2).transpose(1, 2).flatten()
    head = WIDTH // HEADS
    frequency = 10_000.0 ** (-torch.arange(0, head // 2, 2) / (head // 2))
    angles = torch.cat([torch.outer(place // columns, frequency), torch.outer(place % columns, frequency)], 1)
    cos, sin = (turn.repeat(1, 2)[:, None] for turn in (angles.cos(), angles.sin()))

    def turned(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin

    def affine(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON) * weights[f"{name}.weight"]

    stem = "vision_model.embeddings.patch_embedding"
    pixels = patches.reshape(-1, 3, PATCH, PATCH)
    x = torch.nn.functional.conv2d(pixels, weights[f"{stem}.weight"], weights[f"{stem}.bias"]).flatten(1)
    for layer in range(DEPTH):
        name = f"vision_model.encoder.layers.{layer}"
        packed = norm(x, f"{name}.norm1") @ weights[f"{name}.attn.qkv.weight"].T
        query, key, value = packed.reshape(-1, 3, HEADS, head).unbind(1)
        share = (torch.einsum("qhd,khd->hqk", turned(query), turned(key)) / head**0.5).softmax(-1)
        mixed = torch.einsum("hqk,khd->qhd", share, value).flatten(1)
        x = x + affine(mixed, f"{name}.attn.proj") * weights[f"{name}.ls1"]
        hidden = torch.nn.functional.gelu(affine(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
        x = x + affine(hidden, f"{name}.mlp.fc2") * weights[f"{name}.ls2"]
    merged = torch.nn.functional.layer_norm(
        x.reshape(-1, 4 * WIDTH), [4 * WIDTH], weights["mlp1.0.weight"], weights["mlp1.0.bias"]
    )
    return affine(torch.nn.functional.gelu(affine(merged, "mlp1.1")), "mlp1.3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole NaViL model's folder, of which only the image part is read."""
    return _save(tmp_path_factory.mktemp("navil"))


@pytest.mark.parametrize("processes", [1, 2])
def test_tokens_are_the_references(processes: int, folder: Path, pool: WorkerPool) -> None:
    """Two processes share three heads, which do not divide: weights whole on both, images spread."""
    run = _run(folder, parallel=ParallelConfig(tensor=processes))
    batch = synthetic.batches(run, 1, seed=2)[0]
    assert len(batch.grids) > 3
    expected = _reference(load_file(folder / "model.safetensors"), batch)
    for found in pool.run(processes, _tokens, run, batch):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_matrices_split_over_tensor_ranks_are_the_same_weights(folder: Path, pool: WorkerPool, tmp_path: Path) -> None:
    """The encoder alone, under its own model type, with heads that divide."""
    alone = tmp_path / "tower"
    alone.mkdir()
    vision = {**CONFIG["vision_config"], "num_attention_heads": 2, "model_type": "navil_vit"}
    (alone / "config.json").write_text(json.dumps(vision))
    tensors = load_file(folder / "model.safetensors")
    own = {name.removeprefix("vision_model."): value for name, value in tensors.items() if name.startswith("vision_")}
    save_file(own, alone / "model.safetensors")
    run = _run(alone)
    run = replace(run, model=replace(run.model, vision=replace(VISION, heads=2)))
    ((expected, _, said),) = pool.run(1, init_jobs.initialised, run)
    split = replace(run, parallel=ParallelConfig(tensor=2, vision="tensor"))
    (found, _, _), _ = pool.run(2, init_jobs.initialised, split)
    encoder = [name for name in expected if name.startswith("vision_encoder.") and ".connector." not in name]
    assert len(encoder) == 2 + DEPTH * 11
    assert all(torch.equal(found[name], expected[name]) for name in encoder)
    assert said == [
        f"first weights of the vision encoder from {alone}: 24 tensors",
        "tower has no connector for this decoder: drawn at random",
    ]


def test_connector_and_special_embeddings_come_along(folder: Path, pool: WorkerPool) -> None:
    ((found, _, said),) = pool.run(1, init_jobs.initialised, _run(folder))
    tensors = load_file(folder / "model.safetensors")
    assert torch.equal(found["special_embedding.weight"], tensors["special_token_embedding.weight"])
    assert torch.equal(found["vision_encoder.connector.fc2.weight"], tensors["mlp1.3.weight"])
    assert said == [f"first weights of the vision encoder from {folder}: 31 tensors"]


def test_a_language_model_and_an_encoder_meet_in_one_model(folder: Path, pool: WorkerPool, tmp_path: Path) -> None:
    """The connector leads into a decoder of another width, so it is new; so are the special embeddings."""
    language = hf_models.save("internlm2", tmp_path / "lm")
    run = hf_models.run_of("internlm2", language, vision=VISION, special_embeddings=True)
    run = replace(run, init=InitConfig(language_model=str(language), vision_model=str(folder)))
    ((found, _, said),) = pool.run(1, init_jobs.initialised, run)
    text, image = load_file(language / "model.safetensors"), load_file(folder / "model.safetensors")
    assert torch.equal(found["decoder.final_layernorm.weight"], text["model.norm.weight"])
    scale = found["vision_encoder.block.layers.1.mlp_bda.weight"]
    assert torch.equal(scale, image["vision_model.encoder.layers.1.ls2"])
    assert said == [
        f"first weights of the decoder from {language} (internlm2): 15 tensors",
        "lm has no special embeddings: drawn at random",
        "the last 28 of 128 vocabulary rows are not in it: drawn at random",
        f"first weights of the vision encoder from {folder}: 24 tensors",
        f"{folder.name} has no connector for this decoder: drawn at random",
    ]


def test_an_encoder_of_another_shape_is_refused(folder: Path, pool: WorkerPool) -> None:
    run = _run(folder)
    run = replace(run, model=replace(run.model, vision=replace(VISION, depth=3, mlp="swiglu")))
    ((message, unchanged),) = pool.run(1, init_jobs.refused, run)
    assert unchanged and "--set model.vision.depth=2" in message and "--set model.vision.mlp=gelu" in message
