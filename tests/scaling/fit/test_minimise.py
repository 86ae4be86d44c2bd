"""The vectorised search ends where the best of 1,764 single runs of scipy ends."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize

from megatron_nmm.scaling.fit.minimise import minimise, starts
from megatron_nmm.scaling.fit.objective import Runs, residuals, runs_of, value_and_gradient
from megatron_nmm.scaling.papers.published import DENSE, MOE
from tests.scaling.points import grid


def runs(noise: float, law: object = MOE, seed: int = 0) -> Runs:
    points = grid(law, noise, seed)[::2]  # type: ignore[arg-type]
    return runs_of([p.active for p in points], [p.tokens for p in points], [p.loss() for p in points])


def test_the_best_of_all_starts_one_by_one_is_no_better() -> None:
    data = runs(0.005)
    ones = np.ones(data.x_M.size)
    options = {"maxiter": 100, "ftol": 1e-9}
    single = min(
        minimize(value_and_gradient, start, (data, ones), method="L-BFGS-B", jac=True, options=options).fun
        for start in starts(data)
    )
    found = minimise(data)
    assert found.value <= single * (1 + 1e-6)
    assert found.value == pytest.approx(single, rel=1e-3)


def test_starts_are_the_papers() -> None:
    data = runs(0.0)
    raw = data.uncentred(starts(data))
    assert raw.shape == (1764, 5)
    assert [len(set(column.round(6))) for column in raw.T] == [7, 3, 7, 3, 4]
    assert raw.min(0) == pytest.approx([0, 0, 0, 0, -1]) and raw.max(0) == pytest.approx([30, 2.5, 30, 2.5, 1])


def test_the_gradient_is_the_objectives() -> None:
    data = runs(0.02)
    counts = np.arange(1.0, data.x_M.size + 1)
    theta = data.from_law(DENSE)
    value, gradient = value_and_gradient(theta, data, counts)
    assert value > 0
    measured = approx_fprime(theta, lambda t: value_and_gradient(t, data, counts)[0], 1e-7)
    assert gradient == pytest.approx(measured, rel=2e-4, abs=0.5)


def test_a_law_and_its_parameters_are_the_same() -> None:
    data = runs(0.0, DENSE)
    law = data.to_law(data.from_law(DENSE))
    assert [law.E, law.A, law.B, law.alpha, law.beta] == pytest.approx([1.904, 262, 1800, 0.301, 0.335], rel=1e-12)
    assert np.abs(residuals(data.from_law(DENSE)[None], data)[0]).max() < 1e-12
