"""Plans: intervals over whole laws, the choice of a family, overtraining, extrapolation, presets and money."""

from dataclasses import replace

import numpy as np
import pytest

from megatron_nmm.errors import ConfigError
from megatron_nmm.scaling.estimate import Estimate
from megatron_nmm.scaling.fit.one import fit
from megatron_nmm.scaling.law import Fitted, Law, Quality
from megatron_nmm.scaling.money import Machine
from megatron_nmm.scaling.papers.laws import fits
from megatron_nmm.scaling.papers.published import DENSE, ENCODERS, MOE
from megatron_nmm.scaling.plan.budget import (
    difference,
    encoder_size,
    extrapolations,
    for_flops,
    for_parameters,
    for_tokens,
    overtrained,
    trained,
)
from megatron_nmm.scaling.plan.choose import choose
from megatron_nmm.scaling.plan.nearest import nearest
from megatron_nmm.scaling.plan.report import choice, experts, far_beyond
from tests.scaling.points import grid

QUALITY = Quality(1e-4, 0.99, 0.2, 40)


def fit_of(law: Law = DENSE, family: str = "early", scatter: float = 0.0, **fields: object) -> Fitted:
    """A fit whose 60 laws differ in E by ``scatter``."""
    random = np.random.default_rng(0)
    samples = tuple(replace(law, E=law.E + random.normal(0, scatter)) for _ in range(60)) if scatter else ()
    return Fitted(law, "own", family, "avg", "45-45-10", QUALITY, samples=samples, **fields)  # type: ignore[arg-type]


def test_a_given_budget_has_no_interval_and_what_follows_has_one() -> None:
    found = for_flops(fit_of(scatter=0.02), 1e21)
    assert found.flops == Estimate(1e21)
    assert found.loss.low is not None and found.loss.high is not None
    assert found.loss.high - found.loss.low == pytest.approx(2 * 1.96 * 0.02, rel=0.3)
    assert found.parameters.low == pytest.approx(found.parameters.value, rel=1e-6)  # E moves no optimum
    assert not for_flops(fit_of(), 1e21).loss.known


def test_data_and_size_lead_to_the_same_plan_as_their_budget() -> None:
    fitted = fit_of(MOE, "sparse")
    best = for_flops(fitted, 1e22)
    assert for_tokens(fitted, best.tokens.value).parameters.value == pytest.approx(best.parameters.value, rel=1e-6)
    assert for_parameters(fitted, best.parameters.value).tokens.value == pytest.approx(best.tokens.value, rel=1e-6)


@pytest.mark.parametrize(("gap", "certain"), [(0.2, True), (0.01, False)])
def test_a_family_is_chosen_by_more_than_the_interval_or_with_a_warning(gap: float, certain: bool) -> None:
    worse = fit_of(replace(DENSE, E=DENSE.E + gap), "late", 0.02)
    options = [for_flops(one, 1e21) for one in (worse, fit_of(scatter=0.02))]
    found = difference(options)
    assert found is not None and found.best.family == "early" and found.certain is certain
    assert found.gain.value == pytest.approx(gap, rel=1e-6)
    assert ("leaves zero out" if certain else "do not choose by this") in choice(options)


def test_without_bootstrap_laws_nothing_is_certain_and_one_family_is_no_choice() -> None:
    options = [for_flops(one, 1e21) for one in (fit_of(), fit_of(replace(DENSE, E=3.0), "late"))]
    found = difference(options)
    assert found is not None and found.certain is None and "it has no bootstrap laws" in choice(options)
    assert difference(options[:1]) is None and "nothing to choose" in choice(options[:1])
    assert experts(options) == ""


def test_the_papers_choice_is_sparse_and_not_between_early_and_late() -> None:
    options = [for_flops(one, 1e22) for one in fits()]
    assert choice(options).startswith("early fusion, sparse experts has the lowest loss, 0.065 below early fusion")
    assert "holds zero" in choice(options[:2])
    assert experts(options) == "Sparse experts pay: 0.065 below the best dense."


def test_overtraining_costs_nothing_at_the_best_and_more_on_both_sides() -> None:
    rows = overtrained(fit_of(), 1e9)
    paid = [row.paid for row in rows]
    best = [row.factor for row in rows].index(1.0)
    assert paid[best] == pytest.approx(0.0, abs=1e-9)
    assert paid[best - 1] > 1e-3 and sorted(paid[best:]) == paid[best:]
    again = trained(fit_of(), 1e9, rows[-1].tokens)
    assert again.factor == pytest.approx(rows[-1].factor) and again.flops == pytest.approx(6e9 * rows[-1].tokens)


def test_extrapolation_is_told_by_how_many_times() -> None:
    ranges = {"flops": (1e15, 1e17), "parameters": (1e3, 1e13), "tokens": (1e3, 1e14)}
    near, far = (for_flops(fit_of(ranges=ranges), flops) for flops in (2e17, 1e20))
    assert extrapolations(near) == [] and extrapolations(far) == [("flops", pytest.approx(1000))]
    assert list(far_beyond([far])) == [
        "early fusion: FLOPs 1,000 times beyond the runs of the fit; a law is known there by hope alone"
    ]
    small = for_flops(fit_of(ranges=ranges), 1e13)
    assert extrapolations(small) == [("flops", pytest.approx(100))]


def test_encoders_follow_navils_points() -> None:
    for language_model, encoder in ENCODERS:
        assert encoder_size(language_model) == pytest.approx(encoder, rel=0.07)


@pytest.mark.parametrize(
    ("family", "size", "name"),
    [
        ("early", 1.5e9, 'early_fusion("1.627b")'),
        ("late", 1e8, 'late_fusion("0.289b")'),
        ("sparse", 2.1e9, 'sparse_early_fusion("2.280b")'),
        ("modality_ffn", 9e9, 'modality_aware("1.627b")'),
        ("navil", 9e9, 'navil("9b")'),
    ],
)
def test_the_nearest_preset_is_told_with_its_loss(family: str, size: float, name: str) -> None:
    found = nearest(fit_of(family=family), size, 1e21)
    assert found.name == name and found.distance == pytest.approx(max(found.parameters / size, size / found.parameters))
    assert found.tokens == pytest.approx(1e21 / 6 / found.parameters)
    assert found.loss == pytest.approx(float(DENSE.loss(found.parameters, found.tokens)))


def test_an_interval_holds_its_value_and_few_draws_give_none() -> None:
    assert Estimate.of(1.0, [0.0] * 19) == Estimate(1.0)
    skewed = Estimate.of(9.0, np.linspace(0, 1, 100))
    assert skewed.high == 9.0 and skewed.low == pytest.approx(0.025)
    assert Estimate.of(1.0, [np.inf] * 30) == Estimate(1.0)


def test_money_is_hours_times_price() -> None:
    machine = Machine("H100", 1e15, 0.5, 10, 2.0)
    assert machine.hours(1.8e18) == pytest.approx(1.0)
    assert machine.cost(1.8e18) == pytest.approx(2.0)
    assert machine.days(machine.flops(3.0)) == pytest.approx(3.0)
    assert Machine("H100", 1e15, 0.5).days(1e18) is None and Machine("H100", 1e15, 0.5).cost(1e18) is None


@pytest.mark.parametrize(
    ("families", "kind", "mixture", "message"),
    [
        (["navil"], "avg", None, "the fit has no navil models, only early, late"),
        ([], "text", None, "the fit has no kind text; --kind may be avg"),
        ([], "avg", "20-40-40", "the fit has no mixture 20-40-40; --mixture may be 45-45-10"),
    ],
)
def test_what_the_fit_lacks_is_named(families: list[str], kind: str, mixture: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose((fit_of(), fit_of(family="late")), families, kind, mixture)


def test_several_mixtures_or_laws_of_a_family_must_be_chosen_from() -> None:
    other = replace(fit_of(), mixture="20-40-40")
    with pytest.raises(ConfigError, match=r"2 mixtures, 20-40-40, 45-45-10; choose one with --mixture"):
        choose((fit_of(), other), [], "avg", None)
    assert choose((fit_of(), other), [], "avg", "20-40-40") == (other,)
    with pytest.raises(ConfigError, match="2 laws of early"):
        choose((fit_of(), fit_of()), [], "avg", None)
    with pytest.raises(ConfigError, match="holds no law"):
        choose((), [], "avg", None)


def test_a_fit_carries_what_plans_need() -> None:
    """Laws of resamples, the range of the runs, and all parameters as a line in the active ones."""
    runs = tuple(replace(one, total=3 * one.active + 1e8) for one in grid(DENSE, noise=0.01))
    found = fit(runs, "text", resamples=20).fitted
    sizes, tokens = [run.active for run in runs], [run.tokens for run in runs]
    assert found.ranges["parameters"] == (min(sizes), max(sizes)) and found.ranges["tokens"] == (
        min(tokens),
        max(tokens),
    )
    assert found.ranges["flops"] == (min(run.flops for run in runs), max(run.flops for run in runs))
    assert found.total == pytest.approx((3.0, 1e8))
    assert len(found.samples) == 20 and len({law.alpha for law in found.samples}) > 10
    best = for_flops(found, 1e21)
    assert best.parameters.low is not None and best.parameters.low < best.parameters.value
    assert best.total == pytest.approx(3 * best.parameters.value + 1e8)
