"""What a gradient buffer held before a step has no say in it: neither zeros nor rubbish, whichever layers ran."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from megatron_nmm.config import ParallelConfig, RunConfig, SparseConfig
from megatron_nmm.device.mcore_on_cpu import accumulate_weight_gradient
from megatron_nmm.device.protocol import UNWRITTEN
from megatron_nmm.models.build import build
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.parallel.unwritten import begin_gradients, zero_unwritten
from megatron_nmm.verify import layouts, synthetic
from megatron_nmm.verify.workers import Place, WorkerPool

RUN = layouts.toy(RunConfig())
LAYOUTS = {
    "one process": ParallelConfig(),
    "TP2+SP": ParallelConfig(tensor=2, sequence=True),
    "DP2 sharded": ParallelConfig(distributed_optimizer=True),
    "PP2+recompute": ParallelConfig(pipeline=2, recompute="full"),
}


def _gradients(place: Place, run: RunConfig, before: float) -> dict[str, torch.Tensor]:
    """This rank's gradients of a step that found ``before`` in every gradient; the second microbatch is text alone."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        owned = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for name, p in owned.items():
            p.main_grad.fill_(before)  # type: ignore[attr-defined]
            if name.endswith("router.weight"):  # equal scores: every token goes to the first expert, the others idle
                p.data[1:] = p.data[0]
        batches = synthetic.batches(run, 1, seed=1) + synthetic.batches(run, 1, seed=2, images=False)
        forward_backward(model, batches, world)
        assert not any(getattr(main_grad(p), UNWRITTEN, False) for p in owned.values())
        return {name: main_grad(p).clone() for name, p in owned.items()}


def main_grad(p: Any) -> torch.Tensor:
    """``main_grad``, which torch does not know of."""
    gradient: torch.Tensor = p.main_grad
    return gradient


@pytest.mark.parametrize("tied", [False, True], ids=["own output", "tied output"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_does_not_see_what_the_buffer_held(layout: str, tied: bool, pool: WorkerPool) -> None:
    model = replace(RUN.model, modality_experts="all", tie_embeddings=tied)
    run = replace(RUN, model=model, parallel=LAYOUTS[layout])
    size = 1 if layout == "one process" else 2
    for clean, dirty in zip(
        pool.run(size, _gradients, run, 0.0), pool.run(size, _gradients, run, float("nan")), strict=True
    ):
        for name, expected in clean.items():
            assert torch.equal(dirty[name], expected), name


SPARSE = {
    "one process": ParallelConfig(),
    "EP2": ParallelConfig(expert=2),
    "EP2, allgather": ParallelConfig(expert=2, dispatcher="allgather"),
}


@pytest.mark.parametrize("layout", SPARSE)
def test_sparse_experts_write_theirs_idle_ones_zeros(layout: str, pool: WorkerPool) -> None:
    model = replace(RUN.model, sparse=SparseConfig(experts=4, top_k=1))
    run = replace(RUN, model=model, parallel=SPARSE[layout])
    size = 1 if layout == "one process" else 2
    idle = 0
    for clean, dirty in zip(
        pool.run(size, _gradients, run, 0.0), pool.run(size, _gradients, run, float("nan")), strict=True
    ):
        for name, expected in clean.items():
            assert torch.equal(dirty[name], expected), name
            if ".experts." in name:
                idle += int((expected.flatten(1) == 0).all(1).sum())
    assert idle == 2 * 3 * run.model.layers, "three of four experts of each layer have no gradient, and it is zero"


def _untouched_layer(place: Place, run: RunConfig) -> list[float]:
    """Largest gradients of the linear weights of a step without any backward pass, from a buffer full of threes."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        for p in model.parameters():
            main_grad(p).fill_(3.0)
        begin_gradients(model, world.device)
        marked = [main_grad(p) for p in model.parameters() if getattr(main_grad(p), UNWRITTEN, False)]
        assert all(bool((gradient == 3.0).all()) for gradient in marked)
        zero_unwritten(model)
        return [len(marked), *(float(main_grad(p).abs().max()) for p in model.parameters())]


def test_a_layer_that_no_token_reached_has_a_zero_gradient(pool: WorkerPool) -> None:
    ((marked, *largest),) = pool.run(1, _untouched_layer, RUN)
    assert marked >= 4 * RUN.model.layers, "the weights of linear layers are not zeroed but written"
    assert not any(largest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_weight_gradient_is_written_and_the_next_is_added(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows_in, rows_out = (torch.randn(7, n, generator=generator).to(dtype) for n in (5, 3))
    gradient = torch.full((3, 5), float("nan"))
    setattr(gradient, UNWRITTEN, True)
    product = (rows_out.t() @ rows_in).float()
    accumulate_weight_gradient(rows_in, rows_out, gradient)
    assert torch.equal(gradient, product)
    accumulate_weight_gradient(rows_in, rows_out, gradient)
    assert torch.equal(gradient, 2 * product)
