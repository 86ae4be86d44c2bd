"""P1's laws as fits: what is printed comes out again, and what is not stays near it."""

import numpy as np
import pytest

from megatron_nmm.scaling.law import Fitted
from megatron_nmm.scaling.papers import published
from megatron_nmm.scaling.papers.laws import ANCHOR, BUDGETS, fits, frontier
from megatron_nmm.scaling.plan.budget import for_flops
from megatron_nmm.scaling.plan.optimum import Cost, of_flops

FITS = {fitted.family: fitted for fitted in fits()}


@pytest.mark.parametrize("family", ["early", "late", "sparse"])
def test_the_printed_frontiers_come_out(family: str) -> None:
    for flops, told in zip(published.BUDGETS, published.FRONTIER_LOSSES[family], strict=True):
        assert for_flops(FITS[family], flops).ranked.value == pytest.approx(told, abs=6e-4)


@pytest.mark.parametrize(("family", "most"), [("early", 0.065), ("late", 0.065), ("sparse", 0.115)])
def test_laws_stay_near_their_frontier(family: str, most: float) -> None:
    """The plan tells these figures; a law bends where a power law is straight, so they cannot be much smaller."""
    line = frontier(family)
    assert line is not None
    budgets = np.geomspace(*BUDGETS, 30)
    gaps = [of_flops([FITS[family].law], Cost.of(FITS[family]), c).losses[0] - line.loss(c) for c in budgets]
    assert 0.8 * most < np.abs(gaps).max() < most


def test_sparse_optima_are_the_papers() -> None:
    for flops, (n, d) in zip(published.BUDGETS, published.MOE_OPTIMA, strict=True):
        found = for_flops(FITS["sparse"], flops)
        assert found.parameters.value == pytest.approx(n, rel=0.02)
        assert found.tokens.value == pytest.approx(d, rel=0.02)
        assert not found.parameters.known


def test_all_parameters_of_sparse_sizes_are_near_the_papers_models() -> None:
    slope, intercept = FITS["sparse"].total
    assert slope * 1.6268e9 + intercept == pytest.approx(8.18e9, rel=0.05)


@pytest.mark.parametrize("family", ["early", "late"])
def test_resamples_scatter_as_published(family: str) -> None:
    fitted = FITS[family]
    alphas = np.array([law.alpha for law in fitted.samples])
    betas = np.array([law.beta for law in fitted.samples])
    assert alphas.std() == pytest.approx(published.TABLE_11["alpha"][1], rel=0.2)
    assert betas.std() == pytest.approx(published.TABLE_11["beta"][1], rel=0.2)
    assert (betas / (alphas + betas)).std() == pytest.approx(published.TABLE_11["a"][1], rel=0.35)


def test_tokens_per_parameter_are_as_assumed() -> None:
    assert _ratio(FITS["early"]) == pytest.approx(published.ASSUMED_TOKENS_PER_PARAMETER, rel=0.02)
    assert _ratio(FITS["late"]) == pytest.approx(published.ASSUMED_TOKENS_PER_PARAMETER, rel=0.02)


def _ratio(fitted: Fitted) -> float:
    found = of_flops([fitted.law], Cost.of(fitted), ANCHOR)
    return float(found.tokens[0] / found.parameters[0])
