"""The study in examples/studies is whole: nothing in its manifest is left out, and its page is of its runs."""

from megatron_nmm.scaling import manifest
from tests.house.tree import ROOT

STUDY = ROOT / "examples" / "studies" / "laptop"


def test_the_laptop_study_is_whole() -> None:
    read = manifest.read(STUDY)
    assert read.faults == () and len(read.points) == 60
    cells = {(point.family, point.size) for point in read.points}
    assert len(cells) == 3 * 5 and all(
        len({point.tokens for point in read.points if (point.family, point.size) == cell}) == 4 for cell in cells
    )
    assert {frozenset(point.losses) for point in read.points} == {frozenset(("caption", "interleaved", "text"))}


def test_its_page_is_of_its_runs() -> None:
    page = (STUDY / "report.html").read_text(encoding="utf-8")
    assert all(point.run in page for point in manifest.read(STUDY).points)
