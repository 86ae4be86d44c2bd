"""One training step in a layout against the same step in one process: loss and every gradient.

Both start from one full set of weights and see the same global batch, cut as the layout demands.
"""

from dataclasses import dataclass, replace

import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.models.build import build
from megatron_nmm.parallel import full_state
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.verify import faults, synthetic
from megatron_nmm.verify.layouts import SINGLE, Layout
from megatron_nmm.verify.workers import Place, WorkerPool

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class StepResult:
    """What one step produced."""

    loss: float
    gradients: State


@dataclass(frozen=True)
class Comparison:
    """A layout against one process. Errors are max |difference| / max |reference| per tensor."""

    layout: Layout
    loss_error: float
    errors: dict[str, float]

    @property
    def worst(self) -> tuple[str, float]:
        """The tensor that is furthest off, and its error."""
        return max(self.errors.items(), key=lambda item: item[1])

    def passes(self, tolerance: float) -> bool:
        """Whether loss and every gradient are within ``tolerance``; a nan never is."""
        return self.loss_error <= tolerance and all(error <= tolerance for error in self.errors.values())


def initial_state(pool: WorkerPool, run: RunConfig) -> State:
    """One full set of weights of ``run``'s model, drawn in one process, norms and biases moved off their constants."""
    state: State = pool.run(1, _draw, run)[0]
    generator = torch.Generator().manual_seed(run.seed)
    return {
        key: value + 0.1 * torch.randn(value.shape, generator=generator) if value.dim() == 1 else value
        for key, value in state.items()
    }


def step(pool: WorkerPool, run: RunConfig, layout: Layout, state: State, fault: str | None = None) -> StepResult:
    """One forward and backward of ``run`` (already set to ``layout``) from ``state``."""
    result: StepResult = pool.run(layout.processes, _step, run, state, fault)[0]
    return result


def compare(reference: StepResult, result: StepResult, layout: Layout) -> Comparison:
    """Relative errors of ``result``; a tensor only one side has counts as infinitely wrong."""
    names = reference.gradients.keys() | result.gradients.keys()
    errors = {}
    for name in sorted(names):
        if name not in reference.gradients or name not in result.gradients:
            errors[name] = float("inf")
            continue
        expected, got = reference.gradients[name], result.gradients[name]
        error = ((got - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()
        errors[name] = error if error == error else float("inf")
    loss_error = abs(result.loss - reference.loss) / abs(reference.loss)
    return Comparison(layout, loss_error if loss_error == loss_error else float("inf"), errors)


def reference_step(pool: WorkerPool, run: RunConfig, state: State) -> StepResult:
    """The same step in one process."""
    single = replace(run, parallel=replace(SINGLE.parallel, time_limit_s=run.parallel.time_limit_s))
    return step(pool, single, SINGLE, state)


def _draw(place: Place, run: RunConfig) -> State:
    with place.world(run.parallel, run.seed) as world:
        state = full_state.gather(build(run, world), world)
    assert state is not None
    return state


def _step(place: Place, run: RunConfig, state: State, fault: str | None) -> StepResult | None:
    with place.world(run.parallel, run.seed) as world, faults.injected(fault):
        model = build(run, world)
        full_state.load(model, state)
        count = run.data.global_batch // run.data.microbatch
        everything = synthetic.batches(run, count, run.seed, sources=2)
        share = count // world.data_size
        mine = everything[world.data_rank * share : (world.data_rank + 1) * share]
        sums = forward_backward(model, mine, world, sources=2)
        if run.parallel.distributed_optimizer:
            full_state.complete_gradients(model, world)
        gradients = full_state.gather(model, world, full_state.gradient)
    return StepResult(sums.mean, gradients) if gradients is not None else None
