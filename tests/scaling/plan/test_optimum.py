"""The best N and D of a law: against the closed form, against a search, and there and back."""

import numpy as np
import pytest

from megatron_nmm.scaling.law import Law
from megatron_nmm.scaling.papers.published import DENSE, MOE
from megatron_nmm.scaling.plan.optimum import Cost, losses, of_flops, of_parameters, of_tokens

LATE = Cost(0.544, (0.184, -1.4e7))


@pytest.mark.parametrize("law", [DENSE, MOE])
@pytest.mark.parametrize("flops", [1e13, 1e20, 1e24])
def test_without_an_encoder_it_is_the_closed_form(law: Law, flops: float) -> None:
    n, d = law.optimum(flops)
    found = of_flops([law], Cost(), flops)
    assert found.parameters[0] == pytest.approx(float(n), rel=1e-9)
    assert found.tokens[0] == pytest.approx(float(d), rel=1e-9)
    assert found.flops[0] == pytest.approx(flops, rel=1e-9)


def test_with_an_encoder_no_other_size_is_better() -> None:
    found = of_flops([DENSE], LATE, 1e22)
    n = found.parameters[0] * np.linspace(0.5, 2.0, 3001)
    curve = DENSE.loss(n, 1e22 / LATE.flops(n))
    assert found.losses[0] <= curve.min() + 1e-12
    assert n[curve.argmin()] == pytest.approx(found.parameters[0], rel=2e-3)
    assert found.parameters[0] > of_flops([DENSE], Cost(), 1e22).parameters[0]


def test_tokens_and_parameters_lead_back_to_the_budget() -> None:
    laws = [DENSE, MOE]
    best = of_flops(laws, LATE, 3e20)
    for index, law in enumerate(laws):
        by_tokens = of_tokens([law], LATE, best.tokens[index])
        by_size = of_parameters([law], LATE, best.parameters[index])
        for found in (by_tokens, by_size):
            assert found.flops[0] == pytest.approx(3e20, rel=1e-6)
            assert found.losses[0] == pytest.approx(best.losses[index], rel=1e-9)
    assert losses(laws, 1e9, 2e10).tolist() == pytest.approx([float(law.loss(1e9, 2e10)) for law in laws])


def test_an_encoder_is_never_negative_and_never_the_whole_model() -> None:
    steep = Cost(0.5, (2.0, -1e9))
    assert steep.vision(np.array([1e8, 1e12])).tolist() == [0.0, 0.9e12]
