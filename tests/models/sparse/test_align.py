"""Experts whose rows are filled up for products in 8 bits: whole multiples arrive, and nothing else changes."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from megatron_nmm.config import ParallelConfig, PrecisionConfig, RunConfig
from megatron_nmm.config.schema import Recipe
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.models.sparse.test_layer import CASES, backward, plan_of, run_of, tokens

Found = tuple[list[int], int, torch.Tensor, torch.Tensor]
"""Rows of each expert of this rank, of all of them, answers, the gradient of the input."""


def _run(place: Place, run: RunConfig, align: int) -> Found:
    from megatron_nmm.models.leaves import leaves
    from megatron_nmm.models.spec import sparse_mlp
    from megatron_nmm.models.to_mcore import transformer_config

    x, grad, kind = tokens()
    with place.world(run.parallel) as world:
        torch.manual_seed(1)
        build = sparse_mlp(run, leaves(PrecisionConfig("fp32"), world.device))
        layer: Any = build(transformer_config(run, world), pg_collection=world.groups, is_mtp_layer=False, name=None)
        assert layer.token_dispatcher._align == align
        layer.router.plan = SimpleNamespace(sparse=plan_of(kind, run.model.sparse))
        seen: list[tuple[Any, ...]] = []
        layer.experts.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
        # Each rank has rows of its own: they come in another order.
        x = x.roll(7 * place.rank, 0)[:, None].requires_grad_()
        out, _ = layer(x)
        backward(out, grad[:, None])
        rows, counts, _ = seen[0]
        return counts.tolist(), len(rows), out.detach(), x.grad


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("recipe", "align"), [("fp8_current", 16), ("mxfp8", 32)])
def test_experts_get_whole_multiples(recipe: Recipe, align: int, processes: int, pool: WorkerPool) -> None:
    run = replace(run_of(CASES["top-2, fine-grained, both losses"]), parallel=ParallelConfig(expert=processes))
    plain = pool.run(processes, _run, run, 1)
    filled = pool.run(processes, _run, replace(run, precision=PrecisionConfig("fp32", recipe)), align)
    for (counts, _, out, grad), (filled_counts, rows, filled_out, filled_grad) in zip(plain, filled, strict=True):
        assert any(count % align for count in counts)
        assert filled_counts == [-(-count // align) * align for count in counts]
        assert rows % align == 0 and rows >= sum(filled_counts)
        torch.testing.assert_close(filled_out, out)
        torch.testing.assert_close(filled_grad, grad)
