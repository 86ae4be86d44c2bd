"""The vision encoder against itself written out, in one process: tokens and every gradient."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from megatron_nmm.config import ModelConfig, RunConfig
from megatron_nmm.config.schema import DataConfig
from megatron_nmm.config.schema_model import VisionConfig
from megatron_nmm.verify import layouts, synthetic
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.models.vision import plain
from tests.models.vision.forms import INTERN_VIT

NATIVE = DataConfig(image_rule="native", multi_scale=True, augment=False)
MODELS = {
    "late fusion": (VisionConfig(depth=12), DataConfig()),
    "NaViL": (
        VisionConfig(
            depth=24,
            mlp="gelu",
            bias=True,
            qk_norm=False,
            layer_scale=0.1,
            final_norm=False,
            connector="pixel_shuffle",
            patch=16,
        ),
        NATIVE,
    ),
    "windows, three heads, mlp": (
        VisionConfig(depth=4, heads=3, window=8, full_layers=(3,), connector="mlp", bias=True),
        NATIVE,
    ),
    "windows of merge groups, GELU": (
        VisionConfig(depth=4, window=8, full_layers=(1,), connector="pixel_shuffle", mlp="gelu", layer_scale=0.5),
        NATIVE,
    ),
    "windows only": (VisionConfig(depth=4, window=8, mlp="gelu"), NATIVE),
    "InternViT": (INTERN_VIT, NATIVE),
    "a table, whole norms, two matrices": (
        replace(INTERN_VIT, class_token=False, final_norm=True, qk_norm=True, connector="mlp", window=8),
        NATIVE,
    ),
    "a class token of single patches": (replace(INTERN_VIT, connector="linear", norm="rms"), DataConfig()),
}


def toy(vision: VisionConfig, data: DataConfig) -> RunConfig:
    """The recipe of such a model, shrunk."""
    return layouts.toy(RunConfig(model=ModelConfig(vision=vision), data=data))


def encoder(run: RunConfig, world: Any) -> torch.nn.Module:
    """The encoder alone, with weights far from any special value."""
    from megatron_nmm.models.to_mcore import transformer_config
    from megatron_nmm.models.vision.encoder import VisionEncoder

    found = VisionEncoder(run, transformer_config(run, world), world)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in found.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.2)
            p.main_grad = torch.zeros_like(p)  # type: ignore[attr-defined]
    return found


def gradient(p: torch.nn.Parameter) -> torch.Tensor:
    """What the backward pass left: megatron-core's linear layers add theirs to ``main_grad``."""
    return p.main_grad if p.grad is None else p.grad  # type: ignore[attr-defined, no-any-return]


def _encode(place: Place, run: RunConfig, images: bool = True) -> dict[str, Any]:
    with place.world(run.parallel) as world:
        model = encoder(run, world)
        batch = synthetic.batches(run, 1, seed=3, images=images)[0]
        tokens = model(batch)
        direction = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(5))
        tokens.backward(direction)
        return {
            "batch": batch,
            "tokens": tokens.detach(),
            "direction": direction,
            "weights": {name: p.detach() for name, p in model.named_parameters()},
            "gradients": {name: gradient(p) for name, p in model.named_parameters()},
        }


@pytest.mark.parametrize("name", MODELS)
def test_tokens_and_every_gradient_equal_the_encoder_written_out(name: str, pool: WorkerPool) -> None:
    run = toy(*MODELS[name])
    found = pool.run(1, _encode, run)[0]
    batch = found["batch"]
    weights = {key: value.double().requires_grad_() for key, value in found["weights"].items()}
    expected = plain.encode(weights, run.model.vision, batch.patches, [(r, c) for r, c in batch.grids.tolist()])
    assert len(expected) == len(batch.patch_targets) > 0
    assert (found["tokens"] - expected).abs().max() < 1e-5 * expected.abs().max()
    gradients = torch.autograd.grad(expected, list(weights.values()), found["direction"].double())
    for key, gradient in zip(weights, gradients, strict=True):
        error = (found["gradients"][key] - gradient).abs().max() / gradient.abs().max()
        assert error < 2e-5, (key, error)
