"""Models with a vision encoder give the numbers of one process in every layout, also where a rank sees no image."""

from dataclasses import replace

import pytest
import torch

from megatron_nmm.config import ModelConfig, ParallelConfig, RunConfig
from megatron_nmm.config.schema import DataConfig
from megatron_nmm.config.schema_model import VisionConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.build import build
from megatron_nmm.parallel import full_state
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.verify import compare, layouts, synthetic
from megatron_nmm.verify.layouts import DENSE, LAYOUTS, Layout
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.models.vision.forms import INTERN_VIT

TOLERANCE = 1e-5
"""Largest relative error in fp32, per tensor."""
NATIVE = DataConfig(image_rule="native", multi_scale=True, augment=False)
NAVIL = VisionConfig(
    depth=24,
    mlp="gelu",
    bias=True,
    qk_norm=False,
    layer_scale=0.1,
    final_norm=False,
    connector="pixel_shuffle",
    window=8,
    full_layers=(3,),
)
MODELS = {
    # The decoder has no q/k-norm here, so megatron-core would not sum the gradients of the encoder's.
    "late fusion": RunConfig(model=ModelConfig(qk_norm=False, vision=VisionConfig(depth=12))),
    "NaViL with windows": RunConfig(
        model=ModelConfig(
            vision=NAVIL, query_groups=8, modality_experts="all", image_mask="causal", special_embeddings=True
        ),
        data=NATIVE,
    ),
    "three heads": RunConfig(
        model=ModelConfig(
            vision=VisionConfig(depth=2, heads=3, bias=True, window=8, full_layers=(0,), connector="pixel_shuffle")
        ),
        data=NATIVE,
    ),
}
"""The last one's heads divide by no tensor group: its views are spread over the group."""
PLACED = {
    "split": (INTERN_VIT, ("TP2", "TP2+SP", "PP2", "DP2+distributed optimizer", "CP2", "CP2xTP2+SP")),
    "spread": (replace(INTERN_VIT, heads=3), ("TP2", "TP2+SP")),
}
"""What has a table of positions, a class token and biases everywhere, and the layouts that treat these differently."""
BY_NAME = {layout.name: layout for layout in LAYOUTS}


@pytest.fixture(scope="module", params=MODELS, ids=str)
def reference(request: pytest.FixtureRequest, pool: WorkerPool) -> tuple[RunConfig, compare.State, compare.StepResult]:
    """A toy run, one full state and its step in one process."""
    run = layouts.toy(MODELS[request.param])
    state = compare.initial_state(pool, run)
    return run, state, compare.reference_step(pool, run, state)


@pytest.mark.parametrize("name", MODELS)
def test_the_configuration_check_accepts_every_layout(name: str) -> None:
    accepted = [layout for layout, _ in layouts.legal(layouts.toy(MODELS[name]), 4)]
    assert accepted == list(DENSE)


@pytest.mark.parametrize("layout", DENSE, ids=lambda layout: layout.name)
def test_layout_equals_one_process(
    layout: Layout, reference: tuple[RunConfig, compare.State, compare.StepResult], pool: WorkerPool
) -> None:
    run, state, expected = reference
    result = compare.step(pool, replace(run, parallel=layout.parallel), layout, state)
    comparison = compare.compare(expected, result, layout)
    assert len(comparison.errors) == len(state)
    assert comparison.passes(TOLERANCE), (comparison.loss_error, comparison.worst)


@pytest.mark.parametrize("layout", ["TP2", "TP2+SP"])
def test_a_missing_sum_over_the_tensor_group_turns_the_comparison_red(
    layout: str, reference: tuple[RunConfig, compare.State, compare.StepResult], pool: WorkerPool
) -> None:
    run, state, expected = reference
    chosen = BY_NAME[layout]
    result = compare.step(pool, replace(run, parallel=chosen.parallel), chosen, state, "encoder gradients")
    errors = compare.compare(expected, result, chosen).errors
    wrong = {name for name, error in errors.items() if error > TOLERANCE}
    assert wrong == {name for name in state if name.startswith("vision_encoder.") and _summed_by_us(name, run, layout)}


def _summed_by_us(name: str, run: RunConfig, layout: str) -> bool:
    """Which of the encoder's gradients megatron-core leaves to us."""
    head_norm = "q_layernorm" in name or "k_layernorm" in name
    if run.model.vision.heads % 2:
        return not head_norm  # the decoder has q/k-norms, so megatron-core sums every q/k-norm there is
    return head_norm and layout == "TP2" and not run.model.qk_norm


def _mixed_step(
    place: Place, run: RunConfig, state: compare.State, batches: list[Batch]
) -> tuple[compare.StepResult | None, dict[str, torch.Tensor]]:
    """A step over ``batches``: (the whole result on rank 0, this rank's gradients of what tensor ranks hold alike)."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        full_state.load(model, state)
        share = len(batches) // world.data_size
        mine = batches[world.data_rank * share : (world.data_rank + 1) * share]
        sums = forward_backward(model, mine, world, sources=2)
        gradients = full_state.gather(model, world, full_state.gradient)
        alike = {
            name: p.main_grad.clone()  # type: ignore[attr-defined]
            for name, p in model.named_parameters()
            if "vision_encoder" in name and not getattr(p, "tensor_model_parallel", False)
        }
    return (None if gradients is None else compare.StepResult(sums.mean, gradients)), alike


IMAGES = {
    "a microbatch of the first rank has some, the second never sees one": (False, True, False, False),
    "nobody sees one": (False, False, False, False),
}
"""Which of four microbatches have images; of two data-parallel ranks the first takes the first two."""


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("layout", ["TP2+SP", "PP2xDP2", "CP2"])
def test_ranks_and_microbatches_without_images(
    layout: str, images: str, reference: tuple[RunConfig, compare.State, compare.StepResult], pool: WorkerPool
) -> None:
    run, state, _ = reference
    batches = [
        synthetic.batches(run, 1, seed, sources=2, images=each)[0] for seed, each in enumerate(IMAGES[images], 10)
    ]
    expected = pool.run(1, _mixed_step, run, state, batches)[0][0]
    chosen = BY_NAME[layout]
    changed = replace(run, parallel=replace(chosen.parallel, time_limit_s=60))
    results = pool.run(chosen.processes, _mixed_step, changed, state, batches, time_limit_s=120)
    comparison = compare.compare(expected, results[0][0], chosen)
    assert len(comparison.errors) == len(state)
    assert comparison.passes(TOLERANCE), (comparison.loss_error, comparison.worst)
    if images == "nobody sees one":
        of_images = [name for name in state if name.startswith(("vision_encoder.", "special_embedding."))]
        assert of_images and all(not results[0][0].gradients[name].any() for name in of_images)


@pytest.mark.parametrize("layout", ["TP2", "TP2+SP"])
def test_what_tensor_ranks_hold_alike_gets_the_same_gradient_on_all_of_them(
    layout: str, reference: tuple[RunConfig, compare.State, compare.StepResult], pool: WorkerPool
) -> None:
    run, state, _ = reference
    batches = synthetic.batches(run, 2, seed=3, sources=2)
    first, second = pool.run(2, _mixed_step, replace(run, parallel=BY_NAME[layout].parallel), state, batches)
    assert first[1].keys() == second[1].keys() and first[1]
    for name, gradient in first[1].items():
        torch.testing.assert_close(second[1][name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_four_ranks_share_the_views_of_an_encoder_with_two_heads(pool: WorkerPool) -> None:
    run = layouts.toy(RunConfig(model=ModelConfig(vision=VisionConfig(depth=2)), data=NATIVE))
    state = compare.initial_state(pool, run)
    four = Layout("TP4+SP", 4, ParallelConfig(tensor=4, sequence=True))
    result = compare.step(pool, replace(run, parallel=four.parallel), four, state)
    comparison = compare.compare(compare.reference_step(pool, run, state), result, four)
    assert comparison.passes(TOLERANCE), (comparison.loss_error, comparison.worst)


@pytest.mark.parametrize("placed", PLACED)
def test_tables_and_class_tokens_equal_one_process(placed: str, pool: WorkerPool) -> None:
    vision, names = PLACED[placed]
    run = layouts.toy(RunConfig(model=ModelConfig(vision=vision), data=NATIVE))
    state = compare.initial_state(pool, run)
    expected = compare.reference_step(pool, run, state)
    assert all(expected.gradients[f"vision_encoder.positions.{name}"].any() for name in ("table", "class_token"))
    for layout in map(BY_NAME.__getitem__, names):
        result = compare.step(pool, replace(run, parallel=layout.parallel), layout, state)
        comparison = compare.compare(expected, result, layout)
        assert comparison.passes(TOLERANCE), (layout.name, comparison.loss_error, comparison.worst)
    for images in IMAGES.values():
        batches = [synthetic.batches(run, 1, seed, sources=2, images=each)[0] for seed, each in enumerate(images, 10)]
        one = pool.run(1, _mixed_step, run, state, batches)[0][0]
        chosen = BY_NAME["TP2+SP"]
        results = pool.run(2, _mixed_step, replace(run, parallel=chosen.parallel), state, batches, time_limit_s=120)
        assert compare.compare(one, results[0][0], chosen).passes(TOLERANCE)
