"""Emulated recipes against Transformer Engine on a real GPU: output and both gradients of one linear layer."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from megatron_nmm.config import PrecisionConfig
from megatron_nmm.config.recipes import RECIPES, STATE
from megatron_nmm.config.schema import Recipe
from megatron_nmm.precision.emulate import casts_of
from megatron_nmm.precision.product import Counts, product

READY = torch.cuda.is_available() and find_spec("transformer_engine") is not None
pytestmark = pytest.mark.skipif(not READY, reason="this machine has no NVIDIA GPU with Transformer Engine")

T, K, N = 256, 512, 384
"""Rows, inputs, outputs: whole blocks of 128."""
TOLERANCE = 1e-2
"""Relative norm of the difference: a step of bf16, in which results come back, and sums in another order."""


def theirs(recipe: Recipe, x: torch.Tensor, w: torch.Tensor, dy: torch.Tensor) -> list[torch.Tensor]:
    """By Transformer Engine, the second of two passes, so that delayed scaling has learnt."""
    import transformer_engine.pytorch as te
    from transformer_engine.common import recipe as recipes

    made: dict[Recipe, Callable[[], Any]] = {
        "fp8_delayed": lambda: recipes.DelayedScaling(amax_history_len=4),
        "fp8_current": recipes.Float8CurrentScaling,
        "fp8_blockwise": recipes.Float8BlockScaling,
        "mxfp8": recipes.MXFP8BlockScaling,
    }
    layer = te.Linear(K, N, bias=False, params_dtype=torch.bfloat16, device="cuda")
    with torch.no_grad():
        layer.weight.copy_(w)
    for _ in range(2):
        layer.weight.grad = None
        rows = x.clone().requires_grad_()
        with te.fp8_autocast(enabled=True, fp8_recipe=made[recipe]()):
            out = layer(rows)
        out.backward(dy)
    return [out.detach(), rows.grad, layer.weight.grad]


def ours(recipe: Recipe, x: torch.Tensor, w: torch.Tensor, dy: torch.Tensor) -> list[torch.Tensor]:
    """Emulated, with the same two passes."""
    owner = torch.nn.Module()
    casts = casts_of(PrecisionConfig(recipe=recipe, amax_history=4), owner, None, x.device)
    assert recipe != "fp8_delayed" or all(hasattr(owner, name) for name in STATE)
    for _ in range(2):
        rows, weight = x.clone().requires_grad_(), w.clone().requires_grad_()
        out = product(rows, weight, casts, Counts())
        out.backward(dy)
    assert rows.grad is not None and weight.grad is not None
    return [out.detach(), rows.grad, weight.grad]


@pytest.mark.parametrize("recipe", RECIPES)
def test_emulated_products_are_transformer_engines(recipe: Recipe) -> None:
    if not RECIPES[recipe].runs_on(torch.cuda.get_device_capability()):
        pytest.skip(f"this GPU has no {recipe}: compute capability {torch.cuda.get_device_capability()}")
    generator = torch.Generator("cuda").manual_seed(1)
    x, w, dy = (
        (torch.randn(shape, device="cuda", generator=generator) * size).bfloat16()
        for shape, size in (((T, K), 1.0), ((N, K), 0.02), ((T, N), 1e-3))
    )
    for name, a, b in zip(("output", "dgrad", "wgrad"), ours(recipe, x, w, dy), theirs(recipe, x, w, dy), strict=True):
        distance = (a.float() - b.float()).norm() / b.float().norm()
        assert distance <= TOLERANCE, (name, distance.item())
