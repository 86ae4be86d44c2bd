"""Emulated recipes in parallel layouts against one process: loss, gradients, and what delayed scaling remembers."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from megatron_nmm.config import DataConfig, ModelConfig, PrecisionConfig, RunConfig
from megatron_nmm.config.schema import Recipe
from megatron_nmm.config.schema_model import SparseConfig, VisionConfig
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.verify import compare, synthetic
from megatron_nmm.verify.layouts import LAYOUTS
from megatron_nmm.verify.workers import Place, WorkerPool

NORM_TOLERANCE = 5e-3
"""|difference| / |reference| of each gradient, as norms: sums in another order turn a value on a rounding edge now and
then, and then it moves by a step of 2^-3; 8 bits themselves cost several hundredths."""
LOSS_TOLERANCE = 1e-6

DENSE = ModelConfig(layers=2, width=256, heads=4, ffn=256, vocabulary=128, vision=VisionConfig(patch=8))
"""Widths whose halves are whole blocks of 128."""
MODELS = {
    "dense": DENSE,
    "modality experts, encoder": replace(
        DENSE,
        modality_experts="all",
        vision=VisionConfig(depth=1, width=256, heads=4, ffn=256, patch=8, connector="mlp"),
    ),
    "sparse": replace(DENSE, sparse=SparseConfig(experts=4, top_k=2)),
}
RECIPES: tuple[Recipe, ...] = ("fp8_delayed", "fp8_current", "fp8_blockwise", "mxfp8")
BY_NAME = {layout.name: layout for layout in LAYOUTS}


def run_of(recipe: Recipe, model: str = "dense", **precision: Any) -> RunConfig:
    """A toy run; two microbatches of 256 tokens a data rank."""
    settings = PrecisionConfig("fp32", recipe, **{"amax_history": 4, **precision})
    data = DataConfig(sequence_length=128, microbatch=2, global_batch=4, image_size=16)
    return RunConfig(model=MODELS[model], data=data, precision=settings)


def far(reference: compare.StepResult, result: compare.StepResult) -> dict[str, float]:
    """Relative norm of the difference of each gradient."""
    assert reference.gradients.keys() == result.gradients.keys()
    return {
        name: ((result.gradients[name] - expected).norm() / expected.norm().clamp_min(1e-30)).item()
        for name, expected in reference.gradients.items()
    }


CASES: list[tuple[str, str, tuple[Recipe, ...]]] = [
    ("dense", "TP2xPP2+SP", RECIPES),
    ("dense", "TP2+recompute", RECIPES),
    ("modality experts, encoder", "TP2+SP", RECIPES),
    ("sparse", "EP2 in TP2+SP", ("fp8_delayed", "mxfp8")),
]
"""Model, layout, recipes."""


class References:
    """Weights, and steps in one process, of each recipe and model, taken when first asked for."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._states: dict[str, compare.State] = {}
        self._steps: dict[tuple[Recipe, str], compare.StepResult] = {}

    def state(self, model: str) -> compare.State:
        if model not in self._states:
            self._states[model] = compare.initial_state(self._pool, run_of("plain", model))
        return self._states[model]

    def step(self, recipe: Recipe, model: str) -> compare.StepResult:
        key = (recipe, model)
        if key not in self._steps:
            self._steps[key] = compare.reference_step(self._pool, run_of(*key), self.state(model))
        return self._steps[key]


@pytest.fixture(scope="module")
def references(pool: WorkerPool) -> References:
    return References(pool)


@pytest.mark.parametrize(
    ("recipe", "model", "name"), [(recipe, model, name) for model, name, recipes in CASES for recipe in recipes]
)
def test_layout_equals_one_process(
    recipe: Recipe, model: str, name: str, references: References, pool: WorkerPool
) -> None:
    expected, layout = references.step(recipe, model), BY_NAME[name]
    run = replace(run_of(recipe, model), parallel=layout.parallel)
    result = compare.step(pool, run, layout, references.state(model))
    assert abs(result.loss / expected.loss - 1) <= LOSS_TOLERANCE
    worst = max(far(expected, result).items(), key=lambda item: item[1])
    assert worst[1] <= NORM_TOLERANCE, worst


@pytest.mark.parametrize("recipe", RECIPES)
def test_eight_bits_cost_more_than_the_tolerance(recipe: Recipe, references: References) -> None:
    """Or the comparison above would pass without any recipe."""
    distance = far(references.step("plain", "dense"), references.step(recipe, "dense"))
    assert min(distance[name] for name in distance if "linear" in name) > 3 * NORM_TOLERANCE


def test_scales_that_ranks_do_not_share_are_found(references: References, pool: WorkerPool) -> None:
    layout, expected = BY_NAME["TP2"], references.step("fp8_current", "dense")
    run = replace(run_of("fp8_current"), parallel=layout.parallel)
    result = pool.run(2, _step_apart, run, references.state("dense"))[0]
    assert max(far(expected, result).values()) > 3 * NORM_TOLERANCE


def _step_apart(place: Place, run: RunConfig, state: compare.State) -> compare.StepResult | None:
    from megatron_nmm.precision import emulate

    shared = emulate.amax_group
    emulate.amax_group = lambda precision: None
    try:
        return compare._step(place, run, state, None)
    finally:
        emulate.amax_group = shared


def test_plain_layers_are_those_of_a_plain_run(references: References, pool: WorkerPool) -> None:
    """With all layers but one plain, that one alone has casts."""
    run = run_of("fp8_current", plain_first=1)
    cast = pool.run(1, _layers_with_casts, run)[0]
    assert cast == {2}
    assert pool.run(1, _layers_with_casts, run_of("mxfp8", plain_last=1))[0] == {1}


def _layers_with_casts(place: Place, run: RunConfig) -> set[int]:
    from megatron_nmm.models.build import build

    with place.world(run.parallel, run.seed) as world:
        model: Any = build(run, world)
        return {
            layer.layer_number
            for layer in model.module.decoder.layers
            if any(hasattr(module, "casts") for m in layer.modules() for module in vars(m).values())
        }


def test_data_ranks_agree_on_delayed_scales(pool: WorkerPool) -> None:
    """Each data rank sees a microbatch of its own; both go on with the larger amaxes, or with amax_over=tensor not."""
    run = run_of("fp8_delayed")
    of_both, of_one = (pool.run(size, _histories, run) for size in (2, 1))
    assert of_both[0].keys() == of_both[1].keys()
    assert all(torch.equal(of_both[0][name], of_both[1][name]) for name in of_both[0])
    # The first decoder layer's inputs and weights do not depend on any scale.
    first = next(name for name in of_one[0] if "layers.0.self_attention.linear_qkv" in name)
    assert torch.equal(of_both[0][first][0, :2], of_one[0][first][:2, :2].amax(0))
    apart = pool.run(2, _histories, run_of("fp8_delayed", amax_over="tensor"))
    assert not torch.equal(apart[0][first][0, 0], apart[1][first][0, 0])


def _histories(place: Place, run: RunConfig) -> dict[str, torch.Tensor]:
    """Amaxes of every layer after a step of two microbatches over all data ranks."""
    from megatron_nmm.models.build import build

    with place.world(run.parallel, run.seed) as world:
        model = build(run, world)
        batches = synthetic.batches(run, 2, run.seed)
        share = 2 // world.data_size
        forward_backward(model, batches[world.data_rank * share : (world.data_rank + 1) * share], world)
        return {name: value.clone() for name, value in model.named_buffers() if name.endswith("fp8_amax")}
