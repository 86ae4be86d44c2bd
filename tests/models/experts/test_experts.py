"""Models with modality experts against the decoder written out, and the properties that experts promise."""

import itertools
from dataclasses import replace

import pytest
import torch

from megatron_nmm.config import ModelConfig, ParallelConfig, RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.build import build
from megatron_nmm.parallel import full_state
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.verify import compare, layouts, synthetic
from megatron_nmm.verify.layouts import LAYOUTS, Layout
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.models.experts import plain

IN_FLIGHT = Layout("PP2+recompute", 2, ParallelConfig(pipeline=2, recompute="full"))
"""The first stage is ahead by a microbatch when it recomputes one."""
BY_NAME = {layout.name: layout for layout in (*LAYOUTS, IN_FLIGHT)}
MODELS = {
    "all, grouped queries, causal images, special embeddings": ModelConfig(
        modality_experts="all", query_groups=8, image_mask="causal", special_embeddings=True
    ),
    "all, no q/k-norm, wide heads": ModelConfig(modality_experts="all", qk_norm=False, head_dim=24),
    "ffn": ModelConfig(modality_experts="ffn"),
}
ALL, FFN = MODELS["all, grouped queries, causal images, special embeddings"], MODELS["ffn"]


def toy(model: ModelConfig) -> RunConfig:
    """Two layers of it."""
    run = layouts.toy(RunConfig(model=model))
    return replace(run, model=replace(run.model, layers=2))


def distinct(pool: WorkerPool, run: RunConfig) -> compare.State:
    """A full state whose norms are drawn too, so that no two weights are equal."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: w + 0.2 * torch.randn(w.shape, generator=generator) if "norm" in name else w
        for name, w in compare.initial_state(pool, run).items()
    }


def two_batches(run: RunConfig) -> list[Batch]:
    """Batches with images in different places."""
    return [plain.native_batch(run, 1), plain.native_batch(run, 2, images=(1, 0, 0, 1))]


def _step(place: Place, run: RunConfig, state: compare.State, batches: list[Batch]) -> compare.StepResult | None:
    with place.world(run.parallel) as world:
        model = build(run, world)
        full_state.load(model, state)
        share = len(batches) // world.data_size
        mine = batches[world.data_rank * share : (world.data_rank + 1) * share]
        sums = forward_backward(model, mine, world)
        gradients = full_state.gather(model, world, full_state.gradient)
    return compare.StepResult(sums.mean, gradients) if gradients is not None else None


def _logits(place: Place, run: RunConfig, states: list[compare.State], batch: Batch) -> list[torch.Tensor]:
    found = []
    with place.world(run.parallel) as world:
        model = build(run, world)
        for state in states:
            full_state.load(model, state)
            with torch.no_grad():
                found.append(model.module(batch, logits=True))  # type: ignore[operator]
    return found


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_every_gradient_equal_the_decoder_written_out(name: str, pool: WorkerPool) -> None:
    run = toy(MODELS[name])
    state = distinct(pool, run)
    batches = two_batches(run)
    wide = {key: w.double().requires_grad_() for key, w in state.items()}
    loss = plain.mean_loss(wide, run.model, batches)
    gradients = torch.autograd.grad(loss, list(wide.values()))
    expected = compare.StepResult(loss.item(), dict(zip(wide, gradients, strict=True)))
    result = pool.run(1, _step, run, state, batches)[0]
    comparison = compare.compare(expected, result, layouts.SINGLE)
    assert comparison.passes(1e-5), (comparison.loss_error, comparison.worst)
    assert any("visual" in key for key in state)


@pytest.mark.parametrize("layout", ["TP2+SP", "TP2xPP2"])
def test_feed_forward_experts_in_parallel(layout: str, pool: WorkerPool) -> None:
    """Layouts of full experts are in tests/parity."""
    run = toy(FFN)
    state = distinct(pool, run)
    batches = two_batches(run)
    expected = pool.run(1, _step, run, state, batches)[0]
    chosen: Layout = BY_NAME[layout]
    result = pool.run(chosen.processes, _step, replace(run, parallel=chosen.parallel), state, batches)[0]
    comparison = compare.compare(expected, result, chosen)
    assert comparison.passes(1e-5), (comparison.loss_error, comparison.worst)


@pytest.mark.parametrize("layout", ["TP2+SP", "DP2", "TP2+recompute", "PP2+recompute"])
def test_microbatches_without_images_leave_the_layout_no_choice(layout: str, pool: WorkerPool) -> None:
    """One microbatch (and under data parallelism one rank) is text alone; every gradient still agrees."""
    run = toy(ALL)
    state = distinct(pool, run)
    batches = [plain.native_batch(run, 1), plain.native_batch(run, 2, images=(0,) * 13)]
    expected = pool.run(1, _step, run, state, batches)[0]
    chosen: Layout = BY_NAME[layout]
    result = pool.run(chosen.processes, _step, replace(run, parallel=chosen.parallel), state, batches)[0]
    comparison = compare.compare(expected, result, chosen)
    assert comparison.passes(1e-5), (comparison.loss_error, comparison.worst)


def _largest_gradients(place: Place, run: RunConfig, batch: Batch) -> dict[str, float]:
    """Largest gradient of every parameter; fails when the backward pass missed one."""
    reached: set[str] = set()
    with place.world(run.parallel) as world:
        model = build(run, world)
        parameters = dict(model.module.named_parameters())  # type: ignore[union-attr]
        for name, p in parameters.items():
            p.register_hook(lambda _, name=name: reached.add(name))
        forward_backward(model, [batch], world)
        assert reached == parameters.keys()
        # The hook's own value means nothing: linear layers add to main_grad themselves and pass on a dummy.
        return {name: float(p.main_grad.abs().max()) for name, p in parameters.items()}


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_an_absent_modality_has_gradients_of_zero_not_none(recompute: str, pool: WorkerPool) -> None:
    run = toy(ALL)
    run = replace(run, parallel=replace(run.parallel, recompute=recompute))
    largest = pool.run(1, _largest_gradients, run, synthetic.batches(run, 1, seed=5, images=False)[0])[0]
    of_images = {name for name in largest if ".visual." in name or name.startswith(("patch_stem", "special_embedding"))}
    assert len(of_images) == 2 * 6 + 3
    assert {name for name, value in largest.items() if value == 0} == of_images


def all_visual(batch: Batch) -> Batch:
    """``batch`` with every row given to the visual experts."""
    everything = torch.arange(batch.tokens.numel())
    return replace(batch, visual_index=everything, text_index=everything[:0])


def test_a_batch_of_one_modality_alone_trains_that_one(pool: WorkerPool) -> None:
    run = toy(ALL)
    largest = pool.run(1, _largest_gradients, run, all_visual(synthetic.batches(run, 1, seed=5)[0]))[0]
    idle = {name for name, value in largest.items() if value == 0}
    twins = {name.replace("visual.", "") for name in largest if ".visual." in name}
    assert idle == twins | {"special_embedding.weight"}


def text_only_documents(batch: Batch) -> torch.Tensor:
    """[B, S] True on documents without an image."""
    inside = torch.zeros_like(batch.modality, dtype=torch.bool)
    for row in range(batch.rows):
        for start, end in itertools.pairwise(batch.document_starts[row].tolist()):
            inside[row, start:end] = not bool(batch.modality[row, start:end].any())
    return inside


@pytest.mark.parametrize("model", [ALL, FFN], ids=["all", "ffn"])
def test_visual_weights_move_no_document_without_images(model: ModelConfig, pool: WorkerPool) -> None:
    run = toy(model)
    state = distinct(pool, run)
    other = {name: w + 0.1 if ".visual." in name else w for name, w in state.items()}
    batch = plain.native_batch(run, 1)
    before, after = pool.run(1, _logits, run, [state, other], batch)[0]
    text = text_only_documents(batch)
    assert torch.equal(before[text], after[text]) and text.any()
    assert (before[~text] != after[~text]).any()


@pytest.mark.parametrize("model", [ALL, FFN], ids=["all", "ffn"])
def test_experts_with_the_texts_weights_are_the_dense_model(model: ModelConfig, pool: WorkerPool) -> None:
    run = toy(model)
    dense = replace(run, model=replace(run.model, modality_experts="none"))
    state = distinct(pool, dense)
    names = [name for name in compare.initial_state(pool, run) if name not in state]
    twins = {**state, **{name: state[name.replace("visual.", "")] for name in names}}
    mixed, text = plain.native_batch(run, 1), synthetic.batches(run, 1, seed=5, images=False)[0]
    for batch in (mixed, text):
        expected = pool.run(1, _logits, dense, [state], batch)[0][0]
        found = pool.run(1, _logits, run, [twins], batch)[0][0]
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert torch.equal(found, expected), "a batch of text alone goes the dense model's way, to the bit"
