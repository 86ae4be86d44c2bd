"""Pictures of a made study: drawn whole, without overlap, and left out where there is nothing to show."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from megatron_nmm.scaling.report.drawing import CONTRAST, DARK_PAGE, contrast, on_dark
from megatron_nmm.scaling.report.plots import encoder, exponents, families, frontier, isoflop, residuals, style
from megatron_nmm.scaling.report.plots.all import PICTURES, Picture
from megatron_nmm.scaling.report.study import Study, loss_at
from tests.scaling.points import point
from tests.scaling.studies import made


@pytest.fixture(scope="module")
def study() -> Study:
    """Three families at P1's sizes."""
    return made()


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_a_picture_is_written_twice_and_its_texts_do_not_overlap(
    picture: Picture, study: Study, tmp_path: Path
) -> None:
    with matplotlib.rc_context(style.SETTINGS):
        figure = picture.draw(study)
        svg = style.save(figure, tmp_path, picture.name)
    assert svg.startswith("<svg ")
    ElementTree.fromstring((tmp_path / f"{picture.name}.svg").read_bytes())
    with Image.open(tmp_path / f"{picture.name}.png") as image:
        assert image.width > 1000 and len(set(image.convert("L").resize((64, 64)).tobytes())) > 10
    assert overlapping(figure) == []


def overlapping(figure: Any) -> list[tuple[str, str]]:
    """Pairs of visible texts that cover each other, and texts that leave the figure."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    unseen = {one for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for one in _outside(axis)}
    texts = [text for text in figure.findobj(Text) if id(text) not in unseen and text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_visible()]
    assert len(boxes) > 8
    width, height = figure.bbox.width, figure.bbox.height
    out = [(name, "the edge") for name, b in boxes if b.x0 < -1 or b.y0 < -1 or b.x1 > width + 1 or b.y1 > height + 1]
    for (one, a), (two, b) in combinations(boxes, 2):
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1:
            out.append((one, two))
    return out


def _outside(axis: Any) -> set[int]:
    """Texts of ticks beyond the limits of an axis: matplotlib keeps them and does not draw them."""
    low, high = sorted(axis.get_view_interval())
    least = 1e-6 * (high - low)
    beyond = (tick for tick in axis.get_major_ticks() if not low - least <= tick.get_loc() <= high + least)
    return {id(text) for tick in beyond for text in (tick.label1, tick.label2)}


def test_the_check_of_overlaps_finds_one() -> None:
    with matplotlib.rc_context(style.SETTINGS):
        figure, (axes,) = style.panels(1)
        for place in (0.5, 0.52):
            axes.text(place, 0.5, "a long word")
    assert ("a long word", "a long word") in overlapping(figure)


def test_nothing_to_show_is_no_picture(study: Study) -> None:
    none = Study("none", ())
    assert [picture.name for picture in PICTURES if picture.draw(none) is not None] == ["encoder"]
    one = replace(study, fits=study.fits[:1])
    assert families.draw(one) is None
    two_sizes = replace(one, points=tuple(p for p in study.points if p.size in ("0.275b", "3.354b")))
    assert isoflop.draw(two_sizes) is None and frontier.draw(two_sizes) is not None


def test_losses_between_runs_are_read_off_the_line() -> None:
    runs = [point(f"r{d:g}", {"text": loss}, tokens=d) for d, loss in ((1e9, 4.0), (1e11, 2.0))]
    assert loss_at(runs, "text", "tokens", 1e10) == pytest.approx(3.0)
    assert loss_at(runs, "text", "tokens", 1e9) == pytest.approx(4.0)
    assert loss_at(runs, "text", "tokens", 2e11) is None and loss_at(runs[:1], "text", "tokens", 1e9) is None
    seeds = [*runs, point("again", {"text": 5.0}, tokens=1e9)]
    assert loss_at(seeds, "text", "tokens", 1e9) == pytest.approx(4.5)


def test_the_hull_holds_the_lowest_runs_only() -> None:
    losses = {1e9: 4.0, 1e10: 3.5, 2e10: 2.0, 1e11: 1.9, 1e12: 2.2}
    runs = [point(f"r{d:g}", {"text": loss}, tokens=d) for d, loss in losses.items()]
    assert [pair[1] for pair in frontier.hull_of(runs, "text")] == pytest.approx([4.0, 2.0, 1.9])


def test_the_papers_values_stand_beside_the_exponents(study: Study) -> None:
    by_family = {fitted.family: fitted for fitted in study.fits}
    assert exponents.papers("a", by_family["late"]) == [0.6358, 0.628, 0.5382]
    assert exponents.papers("alpha", by_family["sparse"]) == [0.710]
    assert exponents.papers("a", replace(by_family["early"], kind="caption")) == [0.5203]
    assert [way for way, _ in exponents.values("a", by_family["early"])] == ["closed form", "regression"]
    assert frontier.line_of(by_family["early"].exponents) == (29.6, -0.0492)


def test_errors_are_of_the_measured_loss(study: Study) -> None:
    fitted = study.fits[0]
    measured = study.points_of(fitted)[0]
    off = replace(measured, losses={"text": 1.02 * float(fitted.law.loss(measured.active, measured.tokens))})
    assert residuals.error(fitted, off) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(2e8, 5e9, [2e8, 5e8, 1e9, 2e9, 5e9]), (1.0, 1e12, [1.0, 1e3, 1e6, 1e9, 1e12]), (3e4, 8e4, [5e4])],
)
def test_ticks_are_round_and_few(low: float, high: float, expected: list[float]) -> None:
    assert style.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("heights", "top", "expected"),
    [([0, 5], 9, [0, 5]), ([0, 0.5, 0.6], 9, [0, 1, 2]), ([8, 8, 9], 9, [7, 8, 9]), ([3, 1], 9, [3, 4]), ([], 9, [])],
)
def test_labels_move_apart_and_stay_in_order(heights: list[float], top: float, expected: list[float]) -> None:
    assert style.apart(heights, 1, top) == pytest.approx(expected)


@pytest.mark.parametrize("colour", [*(colour for colour, _ in style.FAMILIES.values()), "#440154", style.INK])
def test_colours_show_on_a_dark_page(colour: str) -> None:
    assert contrast(on_dark(colour), DARK_PAGE) >= CONTRAST
    assert on_dark(on_dark(colour)) == on_dark(colour)


def test_own_encoders_are_drawn(study: Study) -> None:
    with matplotlib.rc_context(style.SETTINGS):
        figure = encoder.draw(replace(study, encoders=((0.5e9, 0.3e9),)))
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "best encoders of this study" in labels and "late fusion of this study" in labels
