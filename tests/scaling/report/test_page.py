"""The page of a study: all sections, every value escaped, nothing from outside, ids that are unique."""

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from megatron_nmm.scaling.report.html import Piece, table, tag
from megatron_nmm.scaling.report.page import page
from megatron_nmm.scaling.report.study import Study
from tests.scaling.studies import made

SECTIONS = ("found", "warnings", "pictures", "coefficients", "quality", "next", "limits", "runs")
DRAWING = (
    '<svg width="720pt" height="300pt" viewBox="0 0 720 300"><metadata>x</metadata><g id="a"><use href="#a" '
    'style="fill: #440154; clip-path: url(#a)"/></g></svg>'
)
EVIL = '<script>alert("x")</script>&'
VOID = {"meta", "br", "use"}


class Reader(HTMLParser):
    """Tags, ids and whether all that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def study() -> Study:
    """Three families at P1's sizes."""
    return made()


def test_the_page_has_every_section_and_needs_nothing_else(study: Study) -> None:
    text = page(study, dict.fromkeys(("frontier", "isoflop"), DRAWING))
    read = Reader(text)
    assert read.open == [] and Counter(read.ids).most_common(1)[0][1] == 1
    assert [name for name in read.ids if name in SECTIONS] == list(SECTIONS)
    assert set(read.links) == {f"#{name}" for name in (*SECTIONS, "frontier-a", "isoflop-a")}
    assert "@import" not in text and not re.search(r"url\((?!#)", text) and "<link" not in text
    assert read.tags["h1"] == 1 and read.tags["h2"] == len(SECTIONS) and read.tags["svg"] == 2
    assert read.tags["title"] == 1 + 2 and text.count('role="img" aria-labelledby="') == 2
    assert "url(#isoflop-a)" in text and "var(--c440154)" in text and "--c440154: #440154;" in text
    assert "Exponents: not drawn, for nothing was fitted." in text


def test_what_the_page_says(study: Study) -> None:
    text = re.sub(r"<[^>]+>", "", page(study, {}))
    assert "126 runs of early fusion; late fusion; early fusion, sparse experts" in text
    assert "early-0.464b-22b (z +4.2)" in text and "alpha is known to 20 % only" in text
    assert "line 12 (early-0.275b-5b)" in text
    for paper in ("0.6358 / 0.628 / 0.5382", "381,773", "2.446", "2.450", "2.381", "2.11 B, 790 B"):
        assert paper in text
    assert "8.2e22 FLOPs" in text and "times beyond the runs of the fit" in text
    assert "By this study, for 3e21 FLOPs" in re.sub(r"<[^>]+>", "", page(study, {}, 3e21))


def test_every_value_is_escaped(study: Study) -> None:
    """Names come from files that anybody may have written."""
    bad = {"size": EVIL, "mixture": EVIL, "losses": {EVIL: 3.0}}
    points = tuple(replace(p, run=f"{EVIL}{n}", **bad) for n, p in enumerate(study.points))
    fits = tuple(replace(one, mixture=EVIL, runs=(), warnings=(EVIL,), outliers=(EVIL,)) for one in study.fits)
    read = Reader(text := page(Study(EVIL, points, fits, (EVIL,)), {}))
    assert EVIL not in text and "alert(&quot;x&quot;)" in text
    assert read.tags["script"] == 1 and read.open == []


def test_a_study_without_fits_shows_its_runs_and_one_without_runs_says_so(study: Study) -> None:
    text = page(replace(study, fits=()), {})
    assert "Nothing has been fitted yet: run tools/fit.py" in text and "126 runs; press a heading to sort" in text
    assert "No run of this study could be used." in page(Study("none", ()), {})


def test_runs_sort_by_numbers_not_by_words(study: Study) -> None:
    text = page(study, {})
    assert 'data-key="274800000.0">275 M</td>' in text and text.count('<th scope="row"') > len(study.points)


def test_pieces_escape_text_and_keep_html() -> None:
    assert tag("p", "a < b", Piece("<i>c</i>"), None, class_="x", data_key='"') == (
        '<p class="x" data-key="&quot;">a &lt; b<i>c</i></p>'
    )
    made = table("t", ("a", "b"), [("<", (">", 3))], words=(1,))
    assert '<th scope="row">&lt;</th>' in made and '<td class="words" data-key="3">&gt;</td>' in made
