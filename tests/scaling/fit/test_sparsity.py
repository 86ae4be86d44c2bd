"""The sparsity-aware law is found again from runs at several sparsities, and not guessed from one."""

from collections.abc import Iterator

import pytest

from megatron_nmm.errors import ConfigError
from megatron_nmm.scaling.fit.sparsity import SparseLaw, fit_sparse
from megatron_nmm.scaling.papers.published import BUDGETS, DEPTH_24, MOE, SPARSITY
from megatron_nmm.scaling.point import Point
from tests.scaling.points import point

LAW = SparseLaw(**SPARSITY)


def runs(*top_k: int) -> Iterator[Point]:
    for k in top_k:
        for n in DEPTH_24[::2]:
            for d in (5e9, 2e10, 1e11):
                losses = {"text": float(LAW.loss(n, d, k / 8))}
                yield point(f"{k}-{n:g}-{d:g}", losses, active=n, tokens=d, family="sparse", experts=8, top_k=k)


def test_the_law_is_found_again() -> None:
    points = tuple(runs(1, 2, 4, 8))
    found = fit_sparse(points)
    # A / N^alpha is so small in the paper's law (A = 1) that a fit may count any of it to E.
    for name in ("B", "beta", "C", "lam", "d", "delta", "gamma"):
        assert getattr(found, name) == pytest.approx(getattr(LAW, name), rel=0.02), name
    for one in points:
        assert float(found.loss(one.active, one.tokens, one.top_k / 8)) == pytest.approx(one.loss(), rel=1e-5)


def test_with_all_experts_active_it_is_the_plain_law_of_the_same_table() -> None:
    for flops in BUDGETS:
        n, d = MOE.optimum(flops)
        assert float(LAW.loss(n, d, 1.0)) == pytest.approx(float(MOE.loss(n, d)), rel=1e-3)


def test_one_sparsity_or_few_runs_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"9 runs at 1 active shares of experts \(0\.125\) cannot tell the ten"):
        fit_sparse(tuple(runs(1)))
