"""What a fit shows: tables of coefficients, exponents and quality, and lines on what to make of them."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from megatron_nmm.scaling.fit.one import Report
from megatron_nmm.scaling.fit.sparsity import NAMES, SparseLaw
from megatron_nmm.scaling.fit.study import Encoders, Job
from megatron_nmm.scaling.law import Fitted, Quality
from megatron_nmm.scaling.papers.row import Row, Section, Verdict

MEANINGS = {
    "E": "loss no model and no data can remove",
    "A": "size: A / N^alpha",
    "B": "data: B / D^beta",
    "alpha": "how fast size helps",
    "beta": "how fast data helps",
}
EXPONENTS = {"a": "N ~ C^a", "b": "D ~ C^b", "d": "D ~ N^d"}


def number(value: float) -> str:
    """Four digits, large ones with commas."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.3e}"


def whole(job: Job, report: Report) -> RenderableType:
    """All of one fit."""
    fitted = report.fitted
    sizes, lengths = len({p.size for p in job.points}), len({f"{p.tokens:.1e}" for p in job.points})
    head = (
        f"[bold]{job.name}, {job.kind}[/]: {len(job.points)} runs, {sizes} sizes x about {lengths} token counts, study "
        f"{fitted.study}"
    )
    lines = [f"{report.difference}.", _frontier(report), *_notes(fitted)]
    return Group(
        Text.from_markup(head),
        _coefficients(fitted),
        _exponents(fitted),
        _quality(fitted),
        *map(Text.from_markup, lines),
        Text(""),
    )


def short(reports: Sequence[tuple[Job, Report]]) -> Table:
    """Several fits, a line each."""
    columns = ("family and mixture", "loss", "E", "alpha", "beta", "a", "c", "MAE", "notes")
    table = _table("the other kinds of data", *columns)
    for job, report in reports:
        fitted = report.fitted
        law, form = fitted.law, fitted.exponents["closed form"]
        values = (law.E, law.alpha, law.beta, form["a"])
        c = f"{report.frontier.slope:.3f}" if report.frontier else "-"
        notes = f"{len(fitted.warnings)} warned" if fitted.warnings else ""
        table.add_row(
            job.name, job.kind, *(f"{value:.3f}" for value in values), c, f"{fitted.quality.mae_percent:.2f}%", notes
        )
    return table


def encoders(found: Encoders) -> RenderableType:
    """NaViL's rule."""
    head = Text.from_markup(f"[bold]{found.name}: the smallest encoder that doubling hardly improves[/] (NaViL's rule)")
    table = _table("", "LLM", "best encoder", "")
    for one in found.best:
        note = "" if one.settled else "at least: the largest trained still gains"
        table.add_row(f"{one.llm / 1e6:,.1f}M", f"{one.encoder / 1e6:,.1f}M", note)
    if found.line is None:
        return Group(head, table, Text("one LLM gives no line"))
    low, high = found.line.interval.low, found.line.interval.high
    text = (
        f"encoder = {found.line.scale / 1e9:.3g}B x (LLM / 1B)^{found.line.slope:.3f}, 95 % interval of the slope "
        f"{low:.3f} to {high:.3f}"
    )
    return Group(head, table, Text(text))


def sparse_law(name: str, law: SparseLaw) -> Table:
    """The sparsity-aware form."""
    table = _table(f"sparsity-aware law, {name}", *NAMES)
    table.add_row(*(number(getattr(law, one)) for one in NAMES))
    return table


def section(checked: Section) -> RenderableType:
    """A part of the check of the papers."""
    table = _table(checked.title, "number", "paper", "refit", "difference", "%", "source")
    for row in checked.rows:
        table.add_row(*_row(row))
    return Group(table, Text(checked.how, style="dim"), Text(""))


def verdicts(found: Sequence[Verdict]) -> Table:
    """The contradictions; the reading that the refit supports is bold."""
    table = Table(
        title="where the papers contradict themselves", title_justify="left", title_style="bold", show_lines=True
    )
    for column, width in (("quantity", 17), ("readings", 26), ("refit", 9), ("why", None)):
        table.add_column(column, width=width)
    for one in found:
        texts = (
            Text(f"{place}: {value / one.unit:.5g}", style="bold" if place == one.supported else "")
            for place, value in one.readings.items()
        )
        refit = "-" if one.refit is None else f"{one.refit / one.unit:.5g}"
        table.add_row(one.what, Text("\n").join(texts), refit, one.why)
    return table


def _row(row: Row) -> Iterator[str]:
    yield row.what
    yield number(row.paper / row.unit)
    yield number(row.refit / row.unit)
    small = abs(row.relative) < 5e-6
    yield "0" if small else f"{row.difference:+.2g}"
    yield "0" if small else f"{100 * row.relative:+.2f}"
    yield row.source


def _coefficients(fitted: Fitted) -> Table:
    table = _table("L = E + A / N^alpha + B / D^beta", "", "value", "95 % from", "to", "deviation", "")
    for name, meaning in MEANINGS.items():
        interval = fitted.intervals[name]
        values = (getattr(fitted.law, name), interval.low, interval.high, interval.deviation)
        table.add_row(name, *map(number, values), meaning)
    return table


def _exponents(fitted: Fitted) -> Table:
    table = _table("how the best model grows with compute", "", "closed form", "95 % from", "to", "regression", "")
    swept = fitted.exponents["regression"]
    for name, meaning in EXPONENTS.items():
        interval = fitted.intervals[name]
        values = (fitted.exponents["closed form"][name], interval.low, interval.high)
        table.add_row(name, *(f"{v:.4f}" for v in values), f"{swept[name]:.4f}" if name in swept else "-", meaning)
    return table


def _quality(fitted: Fitted) -> Table:
    table = _table("how well it foretells", "", "runs", "MSE", "R2", "MAE")
    rows: list[tuple[str, Quality]] = [("the fitted runs", fitted.quality)]
    if fitted.held_out:
        rows.append(("the largest sizes, by a fit without them", fitted.held_out))
    for name, one in rows:
        table.add_row(name, str(one.points), f"{one.mse:.2e}", f"{one.r2:.4f}", f"{one.mae_percent:.3f}%")
    return table


def _frontier(report: Report) -> str:
    hull = report.frontier
    if hull is None:
        return "no frontier: fewer than two runs lie on the lower hull."
    own = report.fitted.exponents["closed form"]["c"]
    return (
        f"frontier L = {number(hull.scale)} C^{hull.slope:.4f} (standard error {hull.slope_error:.4f}) through "
        f"{len(hull.hull)} corners of the lower hull, C from {hull.hull[0][0]:.2e} to {hull.hull[-1][0]:.2e} FLOPs; "
        f"runs up to {hull.above:.2e} are left out. The law's own least losses there fall as C^{own:.4f}."
    )


def _notes(fitted: Fitted) -> Iterator[str]:
    if fitted.held_out is None:
        yield "nothing held back: the smaller sizes alone are too few to fit."
    if fitted.outliers:
        yield f"[yellow]far out[/]: {', '.join(fitted.outliers)}"
    for line in fitted.warnings:
        yield f"[yellow]warning[/]: {line}"


def _table(title: str, *columns: str) -> Table:
    """Texts left, numbers right."""
    table = Table(title=title or None, title_justify="left", title_style="bold")
    texts = ("", "number", "source", "family and mixture", "loss", "notes")
    for column in columns:
        table.add_column(column, justify="left" if column in texts else "right")
    return table
