"""tools/report.py writes a page that a real browser shows, and refuses what is no study."""

import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from megatron_nmm.scaling import manifest
from megatron_nmm.scaling.fit import file as fit_file
from megatron_nmm.scaling.report.plots.all import PICTURES
from tests.scaling.points import point
from tests.scaling.studies import made
from tests.tools import browser
from tools.report import encoders_of, main

SIZE = (1280, 2400)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with its report."""
    study, path = made(), tmp_path_factory.mktemp("scaling")
    for run in study.points:
        manifest.append(path / manifest.NAME, run)
    with (path / manifest.NAME).open("a") as file:
        file.write('{"run": "<b>cut')
    fit_file.write(path / fit_file.NAME, study.fits)
    assert main([str(path), "--name", "R&D"]) == 0
    return path


def test_the_page_and_all_pictures_are_written(folder: Path) -> None:
    names = {path.name for path in (folder / "report").iterdir()}
    assert names == {"report.html", *(f"{picture.name}.{ending}" for picture in PICTURES for ending in ("png", "svg"))}
    text = (folder / "report" / "report.html").read_text()
    assert "<title>Scaling study: R&amp;D</title>" in text and "&lt;b&gt;cut" in text and text.count("<svg ") == 6


@pytest.mark.skipif(not browser.find(), reason="no browser: set CHROMIUM or install chromium")
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it(folder: Path, tmp_path: Path, dark: bool) -> None:
    page, shot = folder / "report" / "report.html", tmp_path / "shot.png"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    browser.ask(page, scheme, f"--screenshot={shot}", f"--window-size={SIZE[0]},{SIZE[1]}")
    with Image.open(shot) as opened:
        assert opened.size == SIZE
        grey = opened.convert("L")
        histogram = grey.histogram()
        page_colour = max(range(256), key=lambda value: histogram[value])
        assert page_colour < 60 if dark else page_colour > 240
        darkest, lightest = grey.crop((100, 20, SIZE[0], 80)).getextrema()
        assert lightest - darkest > 180, "the title shows in the ink of the page"
        # Words, tables and drawings cover a part of the page all the way down.
        for top in range(0, SIZE[1], 400):
            band = grey.crop((0, top, SIZE[0], top + 400)).histogram()
            assert sum(band) - sum(band[max(0, page_colour - 6) : page_colour + 7]) > 0.004 * sum(band), top


@pytest.mark.skipif(not browser.find(), reason="no browser: set CHROMIUM or install chromium")
def test_a_browser_reads_every_section_and_runs_the_script(folder: Path, tmp_path: Path) -> None:
    """A click on the heading "D" sorts the runs: the copy of the page presses it itself."""
    press = '<script>document.querySelectorAll("table.sortable th button")[6].click()</script></body>'
    page = tmp_path / "page.html"
    page.write_text((folder / "report" / "report.html").read_text().replace("</body>", press))
    seen = browser.ask(page, "--dump-dom")
    for title in ("What was found", "Coefficients and exponents", "The next model", "The runs"):
        assert f">{title}</h2>" in seen
    assert seen.count("<svg ") == 6 and 'aria-sort="ascending"' in seen
    rows = seen[seen.index('<table class="sortable"') :].split("<tr>")[2:]
    tokens = [float(row.split('data-key="')[4].split('"')[0]) for row in rows]
    assert len(tokens) == 126 and tokens == sorted(tokens)


def test_a_study_without_a_fit_is_reported(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folder / manifest.NAME, tmp_path)
    assert main([str(tmp_path), "--output", str(tmp_path / "deep" / "out")]) == 0
    out = capsys.readouterr().out
    assert "no fit (tools/fit.py makes one)" in out and "Exponents: not drawn, for nothing was fitted" in out
    assert (tmp_path / "deep" / "out" / "report.html").is_file()


def test_what_is_no_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "manifest.jsonl does not exist" in capsys.readouterr().err
    (tmp_path / manifest.NAME).write_text('{"run": "cut\n')
    assert main([str(tmp_path)]) == 2
    assert "has no run that could be used (1 faults): line 1" in capsys.readouterr().err


def test_a_fit_that_is_none_and_a_folder_that_cannot_be_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(folder / manifest.NAME, tmp_path)
    (tmp_path / fit_file.NAME).write_text("[3]")
    assert main([str(tmp_path)]) == 2
    assert "is not a file of fits" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([str(folder), "--output", str(tmp_path / "file" / "below")]) == 2
    assert "takes no report" in capsys.readouterr().err


def test_an_encoder_grid_tells_the_best_encoders() -> None:
    """Twice the encoder gains 10 % and then nothing."""
    losses = {75e6: 3.0, 150e6: 2.7, 300e6: 2.7, 600e6: 2.7}
    runs = [
        point(f"r{size:g}", {"text": loss}, family="late", active=5e8 + size, vision=size, vision_tokens=1e9)
        for size, loss in losses.items()
    ]
    assert encoders_of(runs) == ((5e8, 150e6),)
    assert encoders_of(runs[:1]) == () and encoders_of([point("early")]) == ()


def test_it_loads_no_torch_and_no_scipy() -> None:
    import subprocess

    code = "import sys, tools.report; print(sorted({'torch', 'scipy', 'megatron.core'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.strip() == "[]"
