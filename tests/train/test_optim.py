"""The optimizer step on the real model: clipping, both decays, skipped steps, and one state form for every layout."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from megatron_nmm.config import OptimConfig, ParallelConfig, PrecisionConfig, RunConfig, ScheduleConfig
from megatron_nmm.config.schema import RatesConfig
from megatron_nmm.models.build import build
from megatron_nmm.models.parts import part_of
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.parallel.world import World
from megatron_nmm.train.optim import Optimizer, Update, parameter_groups, weight_decay
from megatron_nmm.verify import layouts, synthetic
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.train.stages import only


def _run(dtype: str = "fp32", **changes: Any) -> RunConfig:
    run = layouts.toy(RunConfig(steps=20, schedule=ScheduleConfig(kind="constant", warmup=0)))
    model = replace(run.model, layers=2, width=32, ffn=48)
    return replace(run, model=model, precision=PrecisionConfig(dtype=dtype), **changes)  # type: ignore[arg-type]


FORMS = {
    "fp32": _run(),
    "fp32 sharded": _run(parallel=ParallelConfig(distributed_optimizer=True)),
    "bf16": _run("bf16"),
    "bf16 sharded": _run("bf16", parallel=ParallelConfig(distributed_optimizer=True)),
}


def _train(model: torch.nn.Module, optimizer: Optimizer, run: RunConfig, world: World, steps: range) -> list[Update]:
    updates = []
    for step in steps:
        batches = synthetic.batches(run, 2, seed=step)
        forward_backward(model, batches[world.data_rank :: world.data_size], world)
        updates.append(optimizer.step(step))
    return updates


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: param.detach().float().clone() for name, param in model.named_parameters()}


def test_peak_is_divided_out_of_the_decoupled_decay() -> None:
    assert weight_decay(OptimConfig(learning_rate=0.01, weight_decay=1e-4, decoupled=True)) == 0.01
    assert weight_decay(OptimConfig(learning_rate=0.01, weight_decay=0.1, decoupled=False)) == 0.1


@pytest.mark.parametrize("decoupled", [True, False])
def test_decay_of_matrices_and_none_of_vectors(decoupled: bool, pool: WorkerPool) -> None:
    optim = OptimConfig(learning_rate=0.01, weight_decay=0.5, decoupled=decoupled)
    run = _run(optim=optim, schedule=ScheduleConfig(kind="constant", warmup=4))
    (shrunk,) = pool.run(1, _decay_only, run)
    kept = 1 - 0.5 * 0.5 * (1.0 if decoupled else 0.01)
    assert any(dims == 1 for dims, _ in shrunk)
    for dims, factor in shrunk:
        assert factor == pytest.approx(kept if dims > 1 else 1.0, rel=1e-6)


def _decay_only(place: Place, run: RunConfig) -> list[tuple[int, float]]:
    """(dimensions, factor) of every parameter after step 2 of 4 warm-up steps (half the peak) with zero gradients."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        optimizer = Optimizer(run, model, world)
        for param in model.parameters():
            param.data.fill_(1.0)
        model.zero_grad_buffer()  # type: ignore[operator]
        optimizer.step(2)
        return [(param.dim(), float(param.detach().mean())) for param in model.parameters()]


def test_every_trainable_parameter_is_in_the_group_of_its_rate() -> None:
    model = torch.nn.Module()
    model.patch_stem = torch.nn.Linear(3, 4)
    model.output_layer = torch.nn.Linear(4, 2, bias=False)
    model.embedding = torch.nn.Linear(4, 2, bias=False)
    model.embedding.weight.requires_grad_(False)
    run = RunConfig(optim=OptimConfig(rates=only("vision", "output", rate=0.1)))
    matrices, vectors = parameter_groups(model, run)
    assert [tuple(param.shape) for param in matrices.pop("params")] == [(4, 3), (2, 4)]
    assert [tuple(param.shape) for param in vectors.pop("params")] == [(4,)]
    assert (matrices, vectors) == ({"rate": 0.1, "decay": True}, {"rate": 0.1, "decay": False})
    mixed = parameter_groups(model, RunConfig(optim=OptimConfig(rates=RatesConfig(output=0.5))))
    assert [(group["rate"], len(group["params"])) for group in mixed] == [(1.0, 1), (1.0, 1), (0.5, 1), (0.5, 0)]


def test_a_rate_of_a_tenth_moves_a_tenth_as_far(pool: WorkerPool) -> None:
    """From the same gradients and decay; the first step of Adam, where moments are the gradients themselves."""
    rates = RatesConfig(ffn=0.1, embeddings=0.1)
    optim = OptimConfig(learning_rate=0.01, weight_decay=0.5)
    (whole,) = pool.run(1, _first_move, _run(optim=optim))
    (parts,) = pool.run(1, _first_move, _run(optim=replace(optim, rates=rates)))
    assert {part_of(name) for name in whole} == {"vision", "embeddings", "attention", "ffn", "norms", "output"}
    for name, move in whole.items():
        assert move.abs().min() > 0.0
        if getattr(rates, part_of(name)) == 1.0:
            assert torch.equal(parts[name], move), name
        else:
            torch.testing.assert_close(parts[name], 0.1 * move, rtol=1e-6, atol=0.0)


def _first_move(place: Place, run: RunConfig) -> dict[str, torch.Tensor]:
    """How far step 1 moves every weight: from 0 by given gradients, and from 1 by decay alone."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        moves: dict[str, torch.Tensor] = {}
        for begin in (0.0, 1.0):
            optimizer = Optimizer(run, model, world)
            for name, param in model.named_parameters():
                param.data.fill_(begin)
                param.main_grad.copy_(torch.full_like(param, 0.5 + len(name)) if begin == 0.0 else 0.0)
            optimizer.step(1)
            for name, param in model.named_parameters():
                if begin == 0.0 or param.dim() > 1:
                    moves[f"{name} from {begin:g}"] = param.detach().double() - begin
        return moves


def test_clipping_bounds_the_norm_that_adam_sees(pool: WorkerPool) -> None:
    (free,) = pool.run(1, _first_moments, _run(optim=OptimConfig(clip=0.0)))
    (clipped,) = pool.run(1, _first_moments, _run(optim=OptimConfig(clip=0.01)))
    assert free[0] == clipped[0]
    assert free[1] == pytest.approx(free[0], rel=1e-5)
    assert clipped[1] == pytest.approx(0.01, rel=1e-3)


def _first_moments(place: Place, run: RunConfig) -> tuple[float, float]:
    """(reported gradient norm, norm of what AdamW took in) of one step."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        optimizer = Optimizer(run, model, world)
        (update,) = _train(model, optimizer, run, world, range(1, 2))
        moments = [state["exp_avg"] for adamw in optimizer.adamws for state in adamw.state.values()]
        taken = torch.cat([moment.flatten() for moment in moments]).norm() / (1 - run.optim.beta1)
        return update.grad_norm, float(taken)


@pytest.mark.parametrize("parallel", [ParallelConfig(), ParallelConfig(tensor=2)], ids=["data 2", "tensor 2"])
def test_a_gradient_that_is_not_finite_on_one_rank_skips_the_step_on_all(
    parallel: ParallelConfig, pool: WorkerPool
) -> None:
    results = pool.run(2, _poisoned, _run(parallel=parallel))
    for update, changed, after in results:
        assert not update.finite
        assert not changed
        assert after.finite


def _poisoned(place: Place, run: RunConfig) -> tuple[Update, bool, Update]:
    """A step with one nan in rank 1's reduced gradients, then a good one."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        optimizer = Optimizer(run, model, world)
        before = _weights(model)
        forward_backward(model, synthetic.batches(run, 1, seed=1), world)
        if place.rank == 1:
            matrix = next(p for name, p in model.named_parameters() if name.endswith("linear_fc2.weight"))
            matrix.main_grad[0, 0] = float("nan")
        update = optimizer.step(1)
        changed = any(not torch.equal(before[name], value) for name, value in _weights(model).items())
        (after,) = _train(model, optimizer, run, world, range(2, 3))
        return update, changed, after


@pytest.mark.parametrize("name", FORMS)
def test_gradients_do_not_leak_into_the_next_step(name: str, pool: WorkerPool) -> None:
    (first, again) = pool.run(
        1, _same_step_twice, replace(FORMS[name], optim=OptimConfig(learning_rate=1e-12, weight_decay=0.0))
    )[0]
    assert first == pytest.approx(again, rel=1e-5)


def _same_step_twice(place: Place, run: RunConfig) -> tuple[float, float]:
    """Gradient norms of the same batches before and after a step too small to matter."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        optimizer = Optimizer(run, model, world)
        norms = []
        for step in (1, 2):
            forward_backward(model, synthetic.batches(run, 2, seed=1), world)
            norms.append(optimizer.step(step).grad_norm)
        return norms[0], norms[1]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_sharded_optimizer_takes_the_same_steps(dtype: str, pool: WorkerPool) -> None:
    plain, sharded = (pool.run(2, _three_steps, FORMS[name])[0] for name in (dtype, f"{dtype} sharded"))
    for name, value in plain.items():
        torch.testing.assert_close(sharded[name], value, rtol=1e-6, atol=1e-7)


def _three_steps(place: Place, run: RunConfig) -> dict[str, torch.Tensor]:
    """Weights after three steps of the same global batches."""
    with place.world(run.parallel) as world:
        model = build(run, world)
        _train(model, Optimizer(run, model, world), run, world, range(1, 4))
        return _weights(model)


MOVES = [
    ("fp32", "fp32"),
    ("fp32", "fp32 sharded"),
    ("fp32 sharded", "fp32"),
    ("fp32 sharded", "fp32 sharded"),
    ("bf16", "bf16 sharded"),
    ("bf16 sharded", "bf16"),
]


@pytest.mark.parametrize(("source", "target"), MOVES, ids=[" to ".join(move) for move in MOVES])
def test_state_moves_between_forms_and_training_goes_on(source: str, target: str, pool: WorkerPool) -> None:
    for went_on, moved in pool.run(2, _move, FORMS[source], FORMS[target]):
        for name, value in went_on.items():
            torch.testing.assert_close(moved[name], value, rtol=1e-6, atol=1e-7)


def _move(
    place: Place, source: RunConfig, target: RunConfig
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights after 3 + 2 steps, in one optimizer and with the state carried over into another in between."""
    with place.world(source.parallel) as world:
        model = build(source, world)
        optimizer = Optimizer(source, model, world)
        _train(model, optimizer, source, world, range(1, 4))
        weights = _weights(model)
        state = _plain(optimizer.sharded_state_dict(model.module.sharded_state_dict()))  # type: ignore[union-attr,operator]
        _train(model, optimizer, source, world, range(4, 6))
        went_on = _weights(model)
    with place.world(target.parallel) as world:
        model = build(target, world)
        optimizer = Optimizer(target, model, world)
        mould = optimizer.sharded_state_dict(model.module.sharded_state_dict(), is_loading=True)  # type: ignore[union-attr,operator]
        assert {key: set(part) for key, part in _plain(mould).items() if key != "step"} == {
            key: set(part) for key, part in state.items() if key != "step"
        }
        for name, param in model.named_parameters():
            param.data.copy_(weights[name])
        optimizer.load_state_dict(state)
        _train(model, optimizer, target, world, range(4, 6))
        return went_on, _weights(model)


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """The tensors behind the sharded leaves, copied: what a loaded checkpoint looks like."""
    return {
        key: part if key == "step" else {name: leaf.data.detach().clone() for name, leaf in part.items()}
        for key, part in state.items()
    }
