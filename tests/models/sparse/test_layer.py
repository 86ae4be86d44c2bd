"""A layer of sparse experts against the same written out: answers, every gradient, with any dispatcher."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from megatron_nmm.config import ModelConfig, ParallelConfig, RunConfig, SparseConfig
from megatron_nmm.config.schema import Dispatcher
from megatron_nmm.models.sparse.plan import PADDING, SparsePlan
from megatron_nmm.verify import layouts
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.models.sparse import plain

CASES = {
    "top-1": SparseConfig(experts=4),
    "top-2, fine-grained, both losses": SparseConfig(experts=4, top_k=2, ffn=48, balance_loss=0.3, z_loss=0.1),
    "top-2 normalised, by row": SparseConfig(
        experts=4, top_k=2, normalise=True, balance_loss=0.5, balance_over="row", z_loss=0.1
    ),
    "top-1 normalised": SparseConfig(experts=4, normalise=True, balance_loss=0.1),
    "sigmoid with a bias": SparseConfig(experts=4, top_k=3, score="sigmoid", balance_loss=0.2, bias_rate=1e-3),
    "softmax with a bias": SparseConfig(experts=4, top_k=2, bias_rate=1e-3),
    "all of one expert's": SparseConfig(experts=4, top_k=4, balance_loss=0.2),
}
ROWS, LENGTH, SCALE = 2, 24, 0.7
"""A microbatch of two rows; what the losses are multiplied by."""


@dataclass(frozen=True)
class Result:
    """What a layer made, and the gradients of everything that takes one."""

    out: torch.Tensor
    gradients: dict[str, torch.Tensor]
    counts: torch.Tensor | None
    """What the bias will be moved by."""


def tokens() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows [T, H], the gradient of their answers, their kinds: some text, some images, padding behind each row."""
    generator = torch.Generator().manual_seed(5)
    x, grad = torch.randn(2, ROWS * LENGTH, 64, generator=generator)
    kind = torch.randint(0, 2, (ROWS, LENGTH), generator=generator)
    kind[0, 20:] = kind[1, 11:] = PADDING
    return x, grad, kind.reshape(-1)


def plan_of(kind: torch.Tensor, sparse: SparseConfig) -> SparsePlan:
    """The plan of ``tokens``."""
    real = (kind != PADDING).view(ROWS, LENGTH)
    if sparse.balance_over == "row":
        members = torch.zeros(ROWS, ROWS, LENGTH)
        members[0, 0], members[1, 1] = real[0].float(), real[1].float()
        members = members.view(ROWS, -1)
    else:
        members = real.float().view(1, -1)
    return SparsePlan(kind, members, members.sum(1), torch.tensor(SCALE))


def backward(out: torch.Tensor, grad: torch.Tensor) -> None:
    """Backward through a layer without a schedule, leaving megatron-core's scale of losses as a schedule leaves it."""
    from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler

    MoEAuxLossAutoScaler.main_loss_backward_scale = torch.ones(1)
    out.backward(grad)


def _run(place: Place, run: RunConfig, bias: torch.Tensor | None) -> tuple[plain.State, Result]:
    """The weights that a layer drew, and what it did with them."""
    from megatron_nmm.models.leaves import leaves
    from megatron_nmm.models.spec import sparse_mlp
    from megatron_nmm.models.to_mcore import transformer_config

    x, grad, kind = tokens()
    with place.world(run.parallel) as world:
        torch.manual_seed(1)
        build = sparse_mlp(run, leaves(run.precision, world.device))
        layer: Any = build(transformer_config(run, world), pg_collection=world.groups, is_mtp_layer=False, name=None)
        with torch.no_grad():
            for weight in layer.parameters():
                weight.normal_(std=0.2)
        layer.router.plan = SimpleNamespace(sparse=plan_of(kind, run.model.sparse))
        if bias is not None:
            layer.router.expert_bias.copy_(bias)
        x = x[:, None].requires_grad_()
        out, none = layer(x)
        assert none is None
        backward(out, grad[:, None])
        state = {name: weight.detach().clone() for name, weight in layer.named_parameters()}
        gradients = {name: weight.grad for name, weight in layer.named_parameters()} | {"x": x.grad[:, 0]}
        return state, Result(out.detach()[:, 0], gradients, layer.router.local_tokens_per_expert)


def written_out(state: plain.State, sparse: SparseConfig, bias: torch.Tensor | None) -> Result:
    """The same with plain.py, in fp64."""
    x, grad, kind = tokens()
    wide = {name: weight.double().requires_grad_() for name, weight in state.items()}
    rows = x.double().requires_grad_()
    out = plain.layer(rows, wide, sparse, kind, bias)
    units = (slice(0, LENGTH), slice(LENGTH, None)) if sparse.balance_over == "row" else (slice(None),)
    balance = torch.stack([plain.balance(rows[unit], wide, sparse, kind[unit], bias) for unit in units]).sum()
    losses = sparse.balance_loss * balance + sparse.z_loss * plain.z(rows, wide, kind)
    objective = (out * grad.double() * (kind != PADDING)[:, None]).sum() + SCALE * losses
    leaves = {**wide, "x": rows}
    gradients = torch.autograd.grad(objective, list(leaves.values()))
    return Result(out.detach(), dict(zip(leaves, gradients, strict=True)), None)


def run_of(sparse: SparseConfig, dispatcher: Dispatcher = "kernels") -> RunConfig:
    """A toy whose layers are these."""
    run = layouts.toy(RunConfig(model=ModelConfig(sparse=sparse)))
    model = replace(run.model, sparse=sparse)
    return replace(run, model=model, parallel=ParallelConfig(dispatcher=dispatcher))


def bias_of(sparse: SparseConfig) -> torch.Tensor | None:
    """A bias strong enough to change choices."""
    return torch.tensor([0.3, -0.2, 0.0, 0.1]) if sparse.bias_rate else None


@pytest.mark.parametrize("name", CASES)
def test_answers_and_every_gradient_equal_the_layer_written_out(name: str, pool: WorkerPool) -> None:
    sparse = CASES[name]
    state, result = pool.run(1, _run, run_of(sparse), bias_of(sparse))[0]
    expected = written_out(state, sparse, bias_of(sparse))
    torch.testing.assert_close(result.out.double(), expected.out, rtol=1e-5, atol=1e-5)
    assert result.gradients.keys() == expected.gradients.keys()
    for key, gradient in expected.gradients.items():
        torch.testing.assert_close(result.gradients[key].double(), gradient, rtol=1e-4, atol=2e-5, msg=key)
    if sparse.bias_rate:
        real = int((tokens()[2] != PADDING).sum())
        assert result.counts is not None and int(result.counts.sum()) == sparse.top_k * real


@pytest.mark.parametrize("dispatcher", ["alltoall", "allgather"])
@pytest.mark.parametrize("name", ["top-1", "top-2, fine-grained, both losses", "top-2 normalised, by row"])
def test_megatron_cores_dispatchers_give_the_same(dispatcher: Dispatcher, name: str, pool: WorkerPool) -> None:
    sparse = CASES[name]
    _, ours = pool.run(1, _run, run_of(sparse), None)[0]
    _, theirs = pool.run(1, _run, run_of(sparse, dispatcher), None)[0]
    real = tokens()[2] != PADDING
    torch.testing.assert_close(theirs.out[real], ours.out[real], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs.gradients["x"][real], ours.gradients["x"][real], rtol=1e-4, atol=1e-5)
