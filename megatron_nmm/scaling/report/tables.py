"""Tables of the report: coefficients beside the papers', quality of the fits, plans, and every run."""

from collections.abc import Callable, Sequence

from megatron_nmm.scaling.estimate import Estimate
from megatron_nmm.scaling.law import PARAMETERS, Fitted, Quality
from megatron_nmm.scaling.papers import published
from megatron_nmm.scaling.plan.budget import Option
from megatron_nmm.scaling.plan.nearest import nearest
from megatron_nmm.scaling.plan.report import papers_answer
from megatron_nmm.scaling.point import AVERAGE
from megatron_nmm.scaling.report.html import Piece, join, table, tag
from megatron_nmm.scaling.report.plots.exponents import papers
from megatron_nmm.scaling.report.plots.residuals import error
from megatron_nmm.scaling.report.study import Study
from megatron_nmm.scaling.words import MINUS, NOTHING, amount, family, loss, power, times

WORDS = {
    "E": "E, the floor",
    "alpha": Piece("&alpha;: loss ~ N<sup>&minus;&alpha;</sup>"),
    "beta": Piece("&beta;: loss ~ D<sup>&minus;&beta;</sup>"),
    "a": Piece("a: best N ~ C<sup>a</sup>"),
    "b": Piece("b: best D ~ C<sup>b</sup>"),
    "d": Piece("d: best D ~ N<sup>d</sup>"),
    "k": Piece("k: least loss = k C<sup>c</sup>"),
    "c": Piece("c: least loss ~ C<sup>c</sup>"),
}

VANISHING = 1e-6
"""Below this a number of a fit is nothing."""


def coefficients(fitted: Fitted) -> Piece:
    """One fit: every coefficient and exponent with its interval and P1's value, a row each."""
    rows = [_coefficient(fitted, name, "", float(getattr(fitted.law, name))) for name in PARAMETERS]
    for way, found in fitted.exponents.items():
        rows += [_coefficient(fitted, name, f" ({way})", value) for name, value in found.items()]
    caption = f"{family(fitted.family)}, {kind(fitted)}, mixture {fitted.mixture}: {len(fitted.runs)} runs"
    return table(caption, ("", "this study", "95 % interval", "deviation", "P1"), rows)


def kind(fitted: Fitted) -> str:
    """Which loss."""
    return "mean loss over kinds" if fitted.kind == AVERAGE else f"loss on {fitted.kind}"


def _coefficient(fitted: Fitted, name: str, way: str, value: float) -> tuple[object, ...]:
    # The intervals of exponents are those of the closed form; beside a regression they would say something else.
    interval = None if way == " (regression)" else fitted.intervals.get(name)
    between = f"{number(interval.low)} to {number(interval.high)}" if interval else NOTHING
    deviation = number(interval.deviation) if interval else NOTHING
    return join((WORDS.get(name, name), way)), number(value), between, deviation, _papers(fitted, name)


def _papers(fitted: Fitted, name: str) -> str:
    """P1's readings; A and B of its sparse models alone."""
    if name in ("A", "B"):
        return number(getattr(published.MOE, name)) if (fitted.family, fitted.kind) == ("sparse", AVERAGE) else NOTHING
    if name == "k":
        chosen = (fitted.family, fitted.kind, "45-45-10")
        found = [one.scale for one in published.FRONTIERS if (one.family, one.kind, one.mixture) == chosen]
    else:
        found = papers(name, fitted)
    return " / ".join(number(value) for value in found) or NOTHING


def number(value: float) -> str:
    """Four figures, thousands apart, a true minus sign; a floor that a fit drove to nothing is 0."""
    if abs(value) < VANISHING:
        return "0"
    text = f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}".replace("e+", "e")
    return text.replace("-", MINUS)


def qualities(fits: Sequence[Fitted]) -> Piece:
    """How well each law foretells, and P1's Table 10."""
    rows: list[tuple[object, ...]] = []
    for fitted in fits:
        rows.append((f"{family(fitted.family)}, {kind(fitted)}", "fitted to", *_quality(fitted.quality)))
        if fitted.held_out:
            rows.append((f"{family(fitted.family)}, {kind(fitted)}", "largest kept back", *_quality(fitted.held_out)))
    for name, what in (("held in", "fitted to"), ("held out", "the 8.13 B model")):
        mse, r2, mae = published.TABLE_10[name]
        rows.append(("P1, Table 10", what, number(mse), number(r2), f"{mae:.2f} %", NOTHING))
    header = ("law", "runs", "MSE", Piece("R<sup>2</sup>"), "mean error", "points")
    return table("Errors of each law", header, rows, words=(1,))


def _quality(one: Quality) -> tuple[object, ...]:
    return number(one.mse), number(one.r2), f"{one.mae_percent:.2f} %", one.points


def plans(options: Sequence[Option], caption: str) -> Piece:
    """The best run of each family for one budget, beside P1's answer and with the nearest preset."""
    rows = []
    for option in options:
        preset = nearest(option.fitted, option.parameters.value, option.flops.value)
        word = "large" if preset.parameters > option.parameters.value else "small"
        far = join((Piece("<br>"), tag("small", f"{times(preset.distance)} times as {word}")))
        rows.append(
            (
                family(option.family),
                _interval(option.parameters, amount, _in_all(option)),
                _interval(option.tokens, amount),
                _interval(option.ranked, loss),
                *papers_answer(option),
                join((tag("code", preset.name), far if preset.distance > 1.5 else None)),
            )
        )
    header = ("family", "N", "D", "loss", "P1's N, D", "P1's loss", "nearest preset")
    return table(caption, header, rows, words=(4, 6))


def _in_all(option: Option) -> str:
    """All parameters where a token does not meet every one of them."""
    return f"{amount(option.total)} in all" if option.total > 1.001 * option.parameters.value else ""


def _interval(estimate: Estimate, word: Callable[[float], str], more: str = "") -> Piece:
    """The value, and below it its interval and ``more``."""
    between = "" if not estimate.known else f"{word(estimate.low or 0.0)} to {word(estimate.high or 0.0)}"
    below = (tag("small", text) for text in (between, more) if text)
    return join((word(estimate.value), *below), "<br>")


def runs(study: Study) -> Piece:
    """Every run, in order of family, N and D."""
    kinds = sorted({kind for point in study.points for kind in point.losses})
    foretold = {point.run: error(fitted, point) for fitted in study.headline() for point in study.points_of(fitted)}
    rows = []
    for point in sorted(study.points, key=lambda one: (one.family, one.mixture, one.active, one.tokens)):
        numbers = [(amount(v), v) for v in (point.active, point.total, point.vision, point.tokens)]
        losses = [(loss(point.losses[name]), point.losses[name]) if name in point.losses else NOTHING for name in kinds]
        missed = foretold.get(point.run)
        rows.append(
            (
                tag("code", point.run),
                family(point.family),
                point.mixture,
                *numbers,
                (power(point.flops), point.flops),
                *losses,
                (loss(point.loss()), point.loss()),
                NOTHING if missed is None else (f"{missed:+.2f} %".replace("-", MINUS), missed),
            )
        )
    header = ("run", "family", "mixture", "N", "all", "Nv", "D", "C", *kinds, "mean loss", "off the law")
    return table(f"{len(rows)} runs; press a heading to sort", header, rows, words=(1, 2), sortable=True)


def law(fitted: Fitted) -> Piece:
    """``L = 1.904 + 262 / N^0.301 + 1,800 / D^0.335`` as a reader knows it."""
    one = fitted.law
    parts = (
        f"L = {number(one.E)} + {number(one.A)} / N",
        tag("sup", number(one.alpha)),
        f" + {number(one.B)} / D",
        tag("sup", number(one.beta)),
    )
    return tag("span", join(parts), class_="law")
