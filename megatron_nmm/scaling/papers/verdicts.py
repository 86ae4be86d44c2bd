"""The papers' contradictions: each with its readings, and the one that the rest of the paper supports."""

from collections.abc import Iterator
from statistics import fmean

import numpy as np

from megatron_nmm.scaling.fit.exponents import closed_form, encoder_of, sweep
from megatron_nmm.scaling.fit.one import fit
from megatron_nmm.scaling.law import Law
from megatron_nmm.scaling.papers import published
from megatron_nmm.scaling.papers.fits import runs
from megatron_nmm.scaling.papers.row import Verdict
from megatron_nmm.scaling.papers.tables import of


def verdicts() -> Iterator[Verdict]:
    """Each contradiction, and which reading the refit supports."""
    yield from _late()
    yield from _pairs()
    yield from _sparse()
    yield from _plain()


def _late() -> Iterator[Verdict]:
    law = Law(1.891, published.DENSE.A, published.DENSE.B, 0.2903, 0.3383)
    sizes, encoders = ([pair[place] for pair in published.LATE_SIZES] for place in (0, 1))
    encoder = encoder_of(sizes, encoders, published.VISION_SHARE)
    ends = published.BUDGETS[0], published.BUDGETS[-1]
    swept, other = sweep(law, ends, encoder), sweep(law, ends, encoder, kept=published.LATE_CONSTANT)
    assert swept is not None and other is not None, "the late law has optima at P1's budgets"
    formula = closed_form(law.alpha, law.beta)
    why = (
        f"P1's sweep with Nv from Table 6 gives {swept.a:.4f}, with the printed factor 0.483 {other.a:.4f}, the "
        f"closed form {formula.a:.4f}: the Nv Dv term moves a by {abs(swept.a - formula.a):.4f}; 0.6358 and 0.628 "
        "stay out of reach"
    )
    yield _verdict("late a", swept.a, why)
    yield _verdict("late d", swept.d, f"the same sweep; {formula.d:.4f} in closed form")


def _pairs() -> Iterator[Verdict]:
    """Two printed pairs of alpha and beta, told apart by an exponent that is printed elsewhere."""
    charts = published.CHART_EXPONENTS
    pairs = {"Table 2": (0.2903, 0.3383), "Fig. 2": charts["late"]}
    told = {f"{place}'s {pair[0]} and {pair[1]}": _ratio(*pair) for place, pair in pairs.items()}
    yield Verdict("late alpha and beta, by N/D ~ C^x", told, published.FIG_1_RATIO["late"], "Fig. 1 prints C^0.076")
    pairs = {"Table 2": (0.301, 0.335), "Fig. 2": charts["early"]}
    told = {f"{place}'s {pair[0]} and {pair[1]}": closed_form(*pair).a for place, pair in pairs.items()}
    printed = published.TABLE_9["closed form"]["a"]
    yield Verdict("early alpha and beta, by N ~ C^a", told, printed, "Table 9 prints the closed form 0.52649")


def _ratio(alpha: float, beta: float) -> float:
    found = closed_form(alpha, beta)
    return found.a - found.b


def _verdict(name: str, refit: float | None, why: str, unit: float = 1.0) -> Verdict:
    told = published.CONTRADICTIONS[name]
    return Verdict(told.what, told.readings, refit, why, unit)


def _sparse() -> Iterator[Verdict]:
    law = published.MOE
    swept = sweep(law, (published.HULL_ABOVE, published.BUDGETS[-1]))
    assert swept is not None, "Table 12's law has optima at P1's budgets"
    why = f"P1's sweep of Table 12's law gives {swept.a:.4f} as well, so 0.361 is no regression on that law"
    yield _verdict("moe a", swept.a, why)
    losses = [float(law.loss(*law.optimum(flops))) for flops in published.BUDGETS]
    slope = float(np.polyfit(np.log(published.BUDGETS), np.log(losses), 1)[0])
    misses = {
        figure: fmean(
            abs(of("sparse", source=figure).loss(flops) - loss)
            for flops, loss in zip(published.BUDGETS, losses, strict=True)
        )
        for figure in ("Fig. 26", "Fig. 9")
    }
    why = (
        f"least losses of Table 12's law at 1e20, 1e21, 1e22 fall as C^{slope:.4f}: flatter than all three. Their mean "
        "distance from the printed frontiers is "
        + ", ".join(f"{miss:.3f} from {figure}" for figure, miss in misses.items())
        + f": by losses {min(misses, key=lambda one: misses[one])} is nearer"
    )
    yield _verdict("moe c", slope, why)


def _plain() -> Iterator[Verdict]:
    fits = [fit(runs(published.MOE, "sparse", lowest=lowest), resamples=2) for lowest in (2.5e9, 250e6)]
    far = max(abs(one.fitted.law.alpha / published.MOE.alpha - 1) for one in fits)
    why = f"both ranges give Table 12's law back (alpha within {far:.0e}), so a fit cannot tell them apart"
    yield _verdict("fewest tokens", None, why, 1e9)
    width, hidden = 1088, 256 * -(-(8 * 1088 // 3) // 256)
    counted = 24 * (4 * width**2 + 3 * width * hidden) + 2 * 50_432 * width
    why = "24 (4 w^2 + 3 w h) + 2 x 50,432 w with w = 1088, h = 3072: the rule that gives all other labels"
    yield _verdict("second size", float(counted), why, 1e9)
    why = "Dv = 0.544 D of section 2.1 leaves 1 - 0.544 of Nv; P1's own token counts, not a fit"
    yield _verdict("late constant", 1.0 - published.VISION_SHARE, why)
