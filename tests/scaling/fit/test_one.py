"""A fit finds the law its runs come from, says how certain it is, and refuses what it cannot tell."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megatron_nmm.errors import ConfigError, DataError
from megatron_nmm.scaling.fit import file as fit_file
from megatron_nmm.scaling.fit.coverage import prove
from megatron_nmm.scaling.fit.one import Report, check, fit
from megatron_nmm.scaling.fit.quality import quality, robust_z
from megatron_nmm.scaling.law import Law
from megatron_nmm.scaling.papers.published import DENSE, DEPTH_24, LATE_SIZES, MOE, VISION_SHARE
from tests.scaling.points import grid, point


@pytest.fixture(scope="module")
def noisy() -> Report:
    return fit(grid(MOE, 0.005, tokens=tuple(np.geomspace(2.5e9, 600e9, 9))), "text", resamples=40)


def test_exact_runs_of_the_papers_sparse_law_give_it_back() -> None:
    report = fit(grid(MOE, family="sparse", experts=8), "text", resamples=4)
    law = report.fitted.law
    for name in ("E", "A", "B", "alpha", "beta"):
        assert getattr(law, name) == pytest.approx(getattr(MOE, name), rel=0.01), name
    assert not report.fitted.warnings and not report.fitted.outliers
    assert report.fitted.quality.r2 == pytest.approx(1.0) and report.fitted.quality.points == 24
    assert report.fitted.exponents["regression"]["a"] == pytest.approx(0.344, abs=0.001)


def test_every_coefficient_and_exponent_has_an_interval(noisy: Report) -> None:
    intervals = noisy.fitted.intervals
    assert set(intervals) == {"E", "A", "B", "alpha", "beta", "a", "b", "d"}
    for name in ("E", "A", "B", "alpha", "beta"):
        interval = intervals[name]
        assert interval.low < getattr(noisy.fitted.law, name) < interval.high, name
        assert 0 < interval.deviation < interval.high - interval.low
    assert intervals["a"].low == pytest.approx(1 - intervals["b"].high)


def test_intervals_cover_as_often_as_they_say() -> None:
    covered = prove(trials=6, resamples=50, seed=1)
    assert set(covered) == {"E", "A", "B", "alpha", "beta", "a", "b", "d"}
    assert all(hits >= 5 for hits in covered.values()), covered


def test_held_out_models_are_foretold_without_them(noisy: Report) -> None:
    held_out = noisy.fitted.held_out
    assert held_out is not None and held_out.points == 9 and held_out.mae_percent < 1.5
    assert len(noisy.fitted.runs) == 54
    points = grid(DENSE, 0.01)
    kept, back = ([p for p in points if (p.active > 3e9) == largest] for largest in (False, True))
    alone = quality(fit(kept, "text", resamples=2).fitted.law, back, "text")
    assert fit(points, "text", resamples=2).fitted.held_out == alone


def test_a_seed_gives_the_same_intervals(noisy: Report) -> None:
    points = grid(DENSE, 0.002)
    one, two, other = (fit(points, "text", resamples=12, seed=seed).fitted.intervals for seed in (3, 3, 4))
    assert one == two and one != other


def test_a_run_far_out_is_named() -> None:
    points = list(grid(MOE, 0.003))
    points[7] = replace(points[7], losses={"text": points[7].losses["text"] * 1.08})
    report = fit(points, "text", resamples=8)
    assert [text.split(" ")[0] for text in report.fitted.outliers] == [points[7].run]
    assert "z +" in report.fitted.outliers[0]
    assert report.fitted.law.beta == pytest.approx(MOE.beta, rel=0.1)


def test_runs_that_the_law_goes_through_make_no_outliers_of_the_others() -> None:
    points = list(grid(MOE, sizes=DEPTH_24[:3], tokens=(5e9, 4e10, 3e11)))
    off = {1: 1.01, 3: 0.99, 5: 1.01, 7: 0.99}
    points = [replace(p, losses={"text": p.loss() * off.get(number, 1.0)}) for number, p in enumerate(points)]
    z = robust_z(MOE, points, "text")
    assert np.abs(z).max() < 1 and [number for number, one in enumerate(z) if abs(one) > 0.5] == [1, 3, 5, 7]


def test_an_exponent_that_runs_do_not_tell_is_named() -> None:
    narrow = grid(DENSE, 0.01, sizes=(0.9e9, 1e9, 1.1e9), tokens=(5e9, 2e10, 8e10, 3e11))
    told = fit(narrow, "text", resamples=20).fitted.warnings
    assert any(line.startswith("alpha rests on 3 sizes, as many as it has to be told from") for line in told)
    assert any(line.startswith("E is not identified") for line in told)
    assert not any(line.startswith("beta is not") for line in told)
    noisy = grid(DENSE, 0.03, sizes=DEPTH_24, tokens=(5e9, 2e10, 8e10, 3e11))
    told = fit(noisy, "text", resamples=20).fitted.warnings
    assert any(line.startswith("alpha is not identified") for line in told)


def test_runs_that_cannot_tell_a_law_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"6 runs are too few for five coefficients; train at least 8"):
        check(grid(MOE, sizes=DEPTH_24[:3], tokens=(5e9, 3e11)))
    with pytest.raises(ConfigError, match=r"1 size cannot tell A, alpha and E apart; train at least 3, better 5"):
        check(grid(MOE, sizes=DEPTH_24[:1], tokens=tuple(np.geomspace(1e9, 1e12, 9))))
    with pytest.raises(ConfigError, match=r"1 token count cannot tell B, beta and E apart"):
        check(grid(MOE, sizes=tuple(np.geomspace(1e8, 1e10, 9)), tokens=(1e10,)))
    with pytest.raises(ConfigError, match=r"0 runs are too few.*0 sizes.*0 token counts"):
        fit(())
    check(grid(MOE, sizes=DEPTH_24[:3], tokens=(5e9, 5e10, 3e11)))


def test_the_late_variant_counts_the_encoders_tokens() -> None:
    law = Law(1.891, 262.0, 1_800.0, 0.2903, 0.3383)
    points = []
    for n, nv in LATE_SIZES:
        for d in (5e9, 2e10, 8e10, 3e11):
            losses = {"text": float(law.loss(n, d))}
            late = {"family": "late", "vision": nv, "vision_tokens": VISION_SHARE * d}
            points.append(point(f"{n:g}-{d:g}", losses, active=n, tokens=d, **late))
    report = fit(points, "text", resamples=4)
    assert report.fitted.vision_share == pytest.approx(VISION_SHARE)
    assert report.fitted.encoder == pytest.approx((0.1843, -13.7e6), rel=0.01)
    formula, swept = report.fitted.exponents["closed form"], report.fitted.exponents["regression"]
    assert formula["a"] == pytest.approx(0.5382, abs=1e-4) and swept["a"] == pytest.approx(0.535, abs=0.002)
    assert "an encoder's parameters meet 54% of the tokens" in report.difference


def test_fits_are_read_back_as_they_were(tmp_path: Path, noisy: Report) -> None:
    fits = (noisy.fitted, replace(noisy.fitted, held_out=None, warnings=("a", "b"), family="late"))
    fit_file.write(tmp_path / fit_file.NAME, fits)
    assert fit_file.read(tmp_path) == fits
    (tmp_path / fit_file.NAME).write_text('[{"law": 3}]')
    with pytest.raises(DataError, match="is not a file of fits"):
        fit_file.read(tmp_path)
    with pytest.raises(DataError, match=r"does not exist; tools/fit\.py --study FOLDER writes it"):
        fit_file.read(tmp_path / "none")
