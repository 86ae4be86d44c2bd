"""Training stages of toy models for the tests of freezing: what trains, and a job that trains and measures it."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from megatron_nmm.config import OptimConfig, PrecisionConfig, RatesConfig, RunConfig, ScheduleConfig
from megatron_nmm.models.build import build
from megatron_nmm.models.parts import part_of
from megatron_nmm.parallel import full_state
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.parallel.world import World
from megatron_nmm.train.optim import Optimizer
from megatron_nmm.verify import compare, layouts, synthetic
from megatron_nmm.verify.workers import Place

STEPS = 3
PARTS = tuple(part.name for part in fields(RatesConfig))


def only(*parts: str, rate: float = 1.0) -> RatesConfig:
    """``parts`` train, everything else is frozen."""
    return RatesConfig(**{part: rate if part in parts else 0.0 for part in PARTS})


def toy(rates: RatesConfig, dtype: str = "fp32", **model: Any) -> RunConfig:
    """A small early-fusion run in stage ``rates``; ``model`` are changes of ModelConfig."""
    run = layouts.toy(RunConfig())
    shape = replace(run.model, layers=2, width=32, ffn=48, **model)
    return staged(replace(run, model=shape, precision=PrecisionConfig(dtype=dtype)), rates)  # type: ignore[arg-type]


def staged(run: RunConfig, rates: RatesConfig) -> RunConfig:
    """``run`` with the stage's ``rates`` and one learning rate from its first step to its last."""
    # Epsilon above the rounding of gradients: Adam would make whole steps of that, and no layout could be compared.
    optim = OptimConfig(learning_rate=1e-2, epsilon=1e-4, weight_decay=1e-2, rates=rates)
    return replace(run, steps=20, schedule=ScheduleConfig(kind="constant", warmup=0), optim=optim)


@dataclass(frozen=True)
class Trained:
    """One rank after some steps; ``weights`` are whole and on rank 0 only."""

    weights: dict[str, torch.Tensor] | None
    norms: list[float]
    trained: frozenset[str]
    """Parts with a gradient buffer on this rank."""
    trained_values: int
    """Weights that train on this rank."""
    moment_bytes: int
    gradient_bytes: int
    masters: int
    """fp32 copies of bf16 weights, in values."""


def take_steps(place: Place, run: RunConfig, state: compare.State) -> Trained:
    """STEPS steps of ``run`` from ``state``, each on global batches of its own."""
    with place.world(run.parallel, run.seed) as world:
        model = build(run, world)
        full_state.load(model, state)
        optimizer = Optimizer(run, model, world)
        norms = []
        for step in range(1, STEPS + 1):
            gradients(model, run, world, step)
            norms.append(optimizer.step(step).grad_norm)
        owned = [(name, param) for name, param in model.named_parameters() if hasattr(param, "main_grad")]
        moments = [moment for adamw in optimizer.adamws for kept in adamw.state.values() for moment in kept.values()]
        stepped = [param for adamw in optimizer.adamws for group in adamw.param_groups for param in group["params"]]
        return Trained(
            weights=full_state.gather(model, world),
            norms=norms,
            trained=frozenset(part_of(name) for name, _ in owned),
            trained_values=sum(param.numel() for _, param in owned),
            moment_bytes=sum(moment.nbytes for moment in moments),
            gradient_bytes=sum(buffer.grad_data.nbytes for buffer in model.buffers),  # type: ignore[union-attr]
            masters=sum(param.numel() for param in stepped) if run.precision.dtype == "bf16" else 0,
        )


def gradients(model: torch.nn.Module, run: RunConfig, world: World, step: int) -> None:
    """Reduced gradients of the batches of ``step``, left in main_grad."""
    rows = synthetic.batches(run, 4, seed=step)
    share = len(rows) // world.data_size
    forward_backward(model, rows[world.data_rank * share : (world.data_rank + 1) * share], world)


def gradients_of_stages(place: Place, runs: list[RunConfig], state: compare.State) -> list[compare.State]:
    """This rank's gradients of the first step, one set a run."""
    found = []
    for run in runs:
        with place.world(run.parallel, run.seed) as world:
            model = build(run, world)
            full_state.load(model, state)
            gradients(model, run, world, 1)
            owned = [(name, p.main_grad) for name, p in model.named_parameters() if p.requires_grad]
            found.append({name: gradient.clone() for name, gradient in owned})
    return found
