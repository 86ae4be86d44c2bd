"""Every picture of a study, written as PNG and SVG."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_nmm.scaling.report.plots import encoder, exponents, families, frontier, isoflop, residuals, style
from megatron_nmm.scaling.report.study import Study


@dataclass(frozen=True)
class Picture:
    """One that a study can have."""

    name: str
    title: str
    draw: Callable[[Study], Any]
    """Gives a figure, or None where the study has nothing to show."""
    shows: str
    """What there is to see, for those who read, or hear, a description in its place."""
    lacks: str
    """Why a study may have none."""


PICTURES = (
    Picture(
        frontier.NAME,
        frontier.TITLE,
        frontier.draw,
        "Held-out loss of every run against its training FLOPs, a line per size of model, a panel per family. Rings "
        "mark the runs of the lower convex hull; the straight line is the power law through the hull, the dotted one "
        "P1's.",
        "no run belongs to a fit",
    ),
    Picture(
        isoflop.NAME,
        isoflop.TITLE,
        isoflop.draw,
        "Loss against N at five budgets, a panel per family. Points are read off between two runs of a size, curves "
        "are the law; stars mark its lowest loss, and the dashed line the path of the best sizes.",
        "no budget was reached by three sizes of one family",
    ),
    Picture(
        residuals.NAME,
        residuals.TITLE,
        residuals.draw,
        "On the left, predicted against measured losses: a good law lies on the diagonal. On the right, how far each "
        "run misses, in percent, by size: errors that bend with size say that the law's form is wrong. Rings mark "
        "outliers.",
        "no run belongs to a fit",
    ),
    Picture(
        exponents.NAME,
        exponents.TITLE,
        exponents.draw,
        "Exponents of each family, with 95 % bootstrap intervals; two dots are two ways to find one exponent. Diamonds "
        "are what P1 prints, all of its readings where it contradicts itself.",
        "nothing was fitted",
    ),
    Picture(
        families.NAME,
        families.TITLE,
        families.draw,
        "On the left, the lowest loss of each budget by family, within the sizes and tokens of the runs: the law with "
        "its 95 % band, and the runs of the lower hull. On the right, the loss at equal N on equally many tokens; N of "
        "sparse models is what a token meets.",
        "there is one family only",
    ),
    Picture(
        encoder.NAME,
        encoder.TITLE,
        encoder.draw,
        "Parameters of the encoder against those of the language model: NaViL's three best encoders, the line through "
        "them with half a step of its grid each way, the models the papers built, and this study's own.",
        "",
    ),
)


def draw_all(study: Study, folder: Path) -> dict[str, str]:
    """Name -> SVG as text of every picture the study has; PNG and SVG are written into ``folder``."""
    import matplotlib

    drawn = {}
    with matplotlib.rc_context(style.SETTINGS):
        for picture in PICTURES:
            figure = picture.draw(study)
            if figure is not None:
                drawn[picture.name] = style.save(figure, folder, picture.name)
    return drawn
