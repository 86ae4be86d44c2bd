"""The exponents with their 95 % intervals, beside what the papers print for the same family."""

from collections.abc import Iterable
from typing import Any

from megatron_nmm.scaling.law import Fitted
from megatron_nmm.scaling.papers import published
from megatron_nmm.scaling.report.plots import style
from megatron_nmm.scaling.report.study import Study
from megatron_nmm.scaling.words import family

NAME = "exponents"
TITLE = "Exponents"
QUANTITIES = {
    "alpha": r"$\alpha$: loss $\sim N^{-\alpha}$",
    "beta": r"$\beta$: loss $\sim D^{-\beta}$",
    "a": r"$a$: best $N \sim C^a$",
    "b": r"$b$: best $D \sim C^b$",
    "d": r"$d$: best $D \sim N^d$",
    "c": r"$c$: least loss $\sim C^c$",
}


def draw(study: Study) -> Any:
    """The figure: a panel a quantity, a row a family. None without fits."""
    fits = study.headline()
    if not fits:
        return None
    height = 1.1 + 0.5 * len(fits)
    figure, axes = style.panels(3, 2, size=(3.9, height))
    for panel, (name, title) in zip(axes, QUANTITIES.items(), strict=True):
        for row, fitted in enumerate(reversed(fits)):
            _row(panel, row, name, fitted)
        panel.set(ylim=(-0.6, len(fits) - 0.4), yticks=range(len(fits)))
        panel.set_yticklabels([family(one.family).replace(", ", ",\n") for one in reversed(fits)])
        panel.set_title(title, weight="normal")
        panel.margins(x=0.12)
        panel.locator_params(axis="x", nbins=5)
        style.grid(panel)
        if panel not in (axes[0], axes[3]):
            panel.tick_params(labelleft=False)
    _key(figure)
    return figure


def values(name: str, fitted: Fitted) -> list[tuple[str, float]]:
    """(way, value): of a coefficient one, of an exponent one for each way it was found."""
    if name in ("alpha", "beta"):
        return [("fit", float(getattr(fitted.law, name)))]
    return [(way, found[name]) for way, found in fitted.exponents.items() if name in found]


def papers(name: str, fitted: Fitted) -> list[float]:
    """What P1's Table 2 prints of this family and kind of loss, and its other readings."""
    rows = [row for row in published.TABLE_2 if (row.name, row.kind) == (fitted.family, fitted.kind)]
    printed = [value for row in rows if (value := getattr(row, name)) is not None]
    key = {"sparse": "moe"}.get(fitted.family, fitted.family) + f" {name}"
    found = published.CONTRADICTIONS.get(key)
    return list(dict.fromkeys([*printed, *(found.readings.values() if found else ())]))


def _row(axes: Any, row: int, name: str, fitted: Fitted) -> None:
    colour, _ = style.FAMILIES[fitted.family]
    interval = fitted.intervals.get(name)
    if interval:
        axes.plot([interval.low, interval.high], [row, row], color=colour, linewidth=2.5, solid_capstyle="round")
    for _way, value in values(name, fitted):
        axes.plot(value, row, "o", color=colour, ms=7, zorder=3)
    _papers_marks(axes, row, papers(name, fitted))


def _papers_marks(axes: Any, row: int, found: Iterable[float]) -> None:
    for value in found:
        axes.plot(value, row + 0.25, "D", mfc="none", mec=style.INK, ms=5.5, mew=1.1, zorder=4)


def _key(figure: Any) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", color=style.PAPER, linewidth=2.5, ms=7, label="this study, 95 % interval"),
        Line2D(
            [], [], marker="D", linestyle="", mfc="none", mec=style.INK, ms=5.5, label="P1, every reading it prints"
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
