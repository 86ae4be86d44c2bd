"""One page about a study: what was found, how sure it is, its pictures, tables and runs, and the next model.

The page needs nothing else: drawings, style and the few lines of script that sort a table stand in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_nmm.scaling.law import Fitted
from megatron_nmm.scaling.papers.laws import fits as papers_fits
from megatron_nmm.scaling.plan.budget import Option, difference, for_flops
from megatron_nmm.scaling.plan.report import approximations, choice, encoder, experts, far_beyond, with_encoder
from megatron_nmm.scaling.report import look
from megatron_nmm.scaling.report import tables as report_tables
from megatron_nmm.scaling.report.drawing import embedded, palette
from megatron_nmm.scaling.report.html import Piece, join, listing, tag
from megatron_nmm.scaling.report.plots.all import PICTURES
from megatron_nmm.scaling.report.study import Study
from megatron_nmm.scaling.words import amount, family, power

NAME = "report.html"
TIMES = 10.0
"""The plan is for this many times the FLOPs of the largest run, unless told otherwise."""
PAPERS_BUDGET = 1e22
"""FLOPs at which the papers' laws are asked beside the study's."""


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it."""

    name: str
    """The anchor."""
    title: str
    parts: tuple[Piece, ...]


def page(study: Study, drawings: Mapping[str, str], flops: float | None = None) -> str:
    """The whole report. ``drawings``: SVG by name of picture (plots/all.py); ``flops``: the budget to plan for."""
    sections = [section for section in _sections(study, drawings, flops) if section.parts]
    title = f"Scaling study: {study.name}"
    body = join(
        [
            tag("header", tag("h1", title), tag("p", _lead(study), class_="lead")),
            _contents(sections),
            tag("main", *(_section(one) for one in sections)),
            tag("footer", tag("p", "Made by tools/report.py of megatron_nmm from manifest.jsonl and fit.json.")),
        ],
        "\n",
    )
    head = join(
        [
            Piece('<meta charset="utf-8">'),
            Piece('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            tag("title", title),
            tag("style", Piece(look.STYLE + palette(list(drawings.values())))),
        ],
        "\n",
    )
    script = tag("script", Piece(look.SCRIPT))
    wrapped = tag("div", body, class_="page")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{wrapped}\n{script}\n</body>\n</html>\n'
    )


def _sections(study: Study, drawings: Mapping[str, str], flops: float | None) -> list[Section]:
    return [
        Section("found", "What was found", _found(study)),
        Section("warnings", "Warnings, outliers and lines left out", _warnings(study)),
        Section("pictures", "Pictures", _pictures(drawings)),
        Section("coefficients", "Coefficients and exponents", _coefficients(study)),
        Section("quality", "How well the laws foretell", (report_tables.qualities(study.fits),) if study.fits else ()),
        Section("next", "The next model", _next(study, flops)),
        Section("limits", "What such a study can and cannot show", _limits(study)),
        Section("runs", "The runs", (report_tables.runs(study),) if study.points else ()),
    ]


def _section(one: Section) -> Piece:
    return tag("section", tag("h2", one.title, id=one.name), *one.parts, aria_labelledby=one.name)


def _contents(sections: Sequence[Section]) -> Piece:
    links = (tag("li", tag("a", one.title, href=f"#{one.name}")) for one in sections)
    return tag("nav", tag("strong", "Contents"), tag("ol", *links), aria_label="Contents")


def _lead(study: Study) -> str:
    """How large the study is, in a sentence."""
    points = study.points
    if not points:
        return "No run of this study could be used."
    kinds = sorted({kind for point in points for kind in point.losses})
    families = "; ".join(family(name) for name in dict.fromkeys(point.family for point in points))
    return (
        f"{len(points)} runs of {families}; N from {_span([p.active for p in points])}, D from "
        f"{_span([p.tokens for p in points])} tokens, {power(min(p.flops for p in points))} to "
        f"{power(max(p.flops for p in points))} FLOPs a run and {power(sum(p.flops for p in points))} in all. "
        f"Held-out loss in nats per token on {', '.join(kinds)}."
    )


def _span(values: Sequence[float]) -> str:
    return f"{amount(min(values))} to {amount(max(values))}"


def _found(study: Study) -> tuple[Piece, ...]:
    """The laws, and which family is best at the largest budget all of them were measured at."""
    fits = study.headline()
    if not fits:
        return (tag("p", "Nothing has been fitted yet: run tools/fit.py on this folder."),)
    items = [
        tag(
            "li",
            tag("b", family(one.family)),
            " ",
            report_tables.law(one),
            f", mean error {one.quality.mae_percent:.2f} %",
        )
        for one in fits
    ]
    parts = [tag("p", "Loss as a function of active parameters N and tokens D, on ", report_tables.kind(fits[0]), ":")]
    parts.append(tag("ul", *items))
    if len(fits) > 1:
        flops = _common_budget(study)
        options = [for_flops(one, flops) for one in fits]
        parts.append(tag("p", f"At {power(flops)} FLOPs, the largest budget of all families: {choice(options)}"))
    return tuple(parts)


def _common_budget(study: Study) -> float:
    return min(max(point.flops for point in study.points_of(one)) for one in study.headline())


def _warnings(study: Study) -> tuple[Piece, ...]:
    parts = []
    headline = study.headline()
    rest = [f"{_name(one)}: {text}" for one in study.fits if one not in headline for text in one.warnings]
    for title, found in (
        ("Warnings of the fits", [f"{_name(one)}: {text}" for one in headline for text in one.warnings]),
        ("Runs far off their law", [f"{_name(one)}: {text}" for one in study.fits for text in one.outliers]),
        ("Lines of the manifest that were left out", list(study.faults)),
    ):
        if found:
            parts.append(tag("div", tag("h3", title), listing(found), class_="warning"))
    if rest:
        told = f"{len(rest)} more warnings of fits by kind of data or mixture"
        parts.append(tag("details", tag("summary", told), listing(rest)))
    return tuple(parts) or (tag("p", "None."),)


def _name(one: Fitted) -> str:
    return f"{family(one.family)}, {report_tables.kind(one)}"


def _pictures(drawings: Mapping[str, str]) -> tuple[Piece, ...]:
    parts = []
    for picture in PICTURES:
        if picture.name in drawings:
            drawn = embedded(drawings[picture.name], picture.name, picture.title, picture.shows)
            box = tag("div", drawn, class_="drawing", tabindex="0", role="region", aria_label=picture.title)
            caption = tag("figcaption", picture.shows)
            parts.append(tag("figure", tag("h3", picture.title), box, caption))
        else:
            parts.append(tag("p", f"{picture.title}: not drawn, for {picture.lacks}.", class_="soft"))
    return tuple(parts)


def _coefficients(study: Study) -> tuple[Piece, ...]:
    """The headline fits in the open, all others folded."""
    shown = study.headline()
    parts = [report_tables.coefficients(one) for one in shown]
    rest = [one for one in study.fits if one not in shown]
    if rest:
        tables = (report_tables.coefficients(one) for one in rest)
        parts.append(tag("details", tag("summary", f"{len(rest)} more fits, by kind of data or mixture"), *tables))
    note = (
        "P1 prints several values of some quantities; all of them stand here. Its A and B are published for sparse "
        "models alone. Numbers of another study are no aim: E, A and B depend on the data and the tokenizer."
    )
    return (*parts, tag("p", note, class_="soft")) if parts else ()


def _next(study: Study, flops: float | None) -> tuple[Piece, ...]:
    """The study's answer for the next budget, and the papers' own for ``PAPERS_BUDGET``."""
    parts: list[Piece] = []
    fits = study.headline()
    if fits and study.points:
        budget = flops or TIMES * max(point.flops for point in study.points)
        options = [for_flops(one, budget) for one in fits]
        caption = f"By this study, for {power(budget)} FLOPs"
        parts += _answer(options, caption)
    papers = [for_flops(one, PAPERS_BUDGET) for one in papers_fits()]
    parts += _answer(papers, f"By the papers' laws, for {power(PAPERS_BUDGET)} FLOPs")
    parts.append(tag("div", *(tag("p", text, class_="soft") for text in approximations(papers))))
    parts.append(tag("p", "Other budgets, data, prices and serving sizes: ", tag("code", "tools/budget.py"), "."))
    return tuple(parts)


def _answer(options: Sequence[Option], caption: str) -> list[Piece]:
    said = [choice(options), experts(options) if difference(options) else "", encoder(with_encoder(options))]
    parts = [report_tables.plans(options, caption), listing(text for text in said if text)]
    if found := list(far_beyond(options)):
        parts.append(tag("div", tag("strong", "Take care"), listing(found), class_="warning"))
    return parts


def _limits(study: Study) -> tuple[Piece, ...]:
    """What holds for every study, with this one's numbers."""
    if not study.points:
        return ()
    sizes = [point.active for point in study.points]
    tokens = [point.tokens for point in study.points]
    can = (
        f"how loss falls with N over a factor of {max(sizes) / min(sizes):.3g} and with D over a factor of "
        f"{max(tokens) / min(tokens):.3g}, on this data, with this tokenizer and these learning rates",
        "which of its families is ahead inside that range, where intervals do not overlap",
        "whether the form L(N, D) holds there: residuals without a bend, and a largest size that smaller ones foretell",
    )
    cannot = (
        "what happens far outside: small models learn other things first, and a floor E that was never approached is "
        "read off the bend of a curve; a factor of ten beyond the largest run is already far",
        "scores on benchmarks: losses order models of one kind, not models of different data or fusion",
        "anything about data that is repeated, other tokenizers or image resolutions, for the laws know neither",
        "whether a difference smaller than the intervals exists; more seeds and more sizes narrow them",
    )
    seeds = len({point.seed for point in study.points})
    many = f"{seeds} seeds: what another seed changes is in the intervals."
    note = many if seeds > 1 else "One seed: what another seed changes is not in the intervals."
    return (
        tag("h3", "It can show"), listing(can), tag("h3", "It cannot show"), listing(cannot), tag("p", note)
    )  # fmt: skip
