"""A contact sheet shows every picture whole, and text that never leaves its cell."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from megatron_nmm.data.contact_sheet import CELL, GAP, TEXT_SIZE, Picture, _cut, _font, _wrap, contact_sheet
from megatron_nmm.errors import DataError

WIDTH = CELL - 12
TEXTS = ("", "one", "a few words that need more than a single line", "donaudampfschifffahrt" * 9, "слово " * 90)


def _plain(height: int, width: int, colour: tuple[int, int, int]) -> Picture:
    pixels = np.full((height, width, 3), colour, dtype=np.uint8)
    return Picture(pixels, f"{height} x {width}", "text " * 50)


@pytest.mark.parametrize("text", TEXTS)
def test_text_stays_in_its_lines_and_is_cut_visibly(text: str) -> None:
    font = _font(TEXT_SIZE)
    lines = _wrap(text, font, WIDTH, 4)
    assert len(lines) <= 4 and all(font.getlength(line) <= WIDTH for line in lines)
    whole = "".join(text.split())
    shown = "".join("".join(lines).split())
    assert shown == whole or (shown.endswith("…") and whole.startswith(shown[:-1]))


def test_a_line_too_narrow_for_anything_is_an_ellipsis() -> None:
    assert _cut("word", _font(TEXT_SIZE), 1) == "…"


def test_pictures_stand_in_rows_each_in_its_cell(tmp_path: Path) -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 0, 200)]
    shapes = [(8, 8), (30, 900), (900, 30), (448, 448)]
    shown = [_plain(*shape, colour) for shape, colour in zip(shapes, colours, strict=True)]
    contact_sheet(shown, tmp_path / "sheet.png", "four pictures", columns=3)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    assert sheet.shape[1] == 3 * (CELL + GAP) + GAP
    for number, colour in enumerate(colours):
        rows, columns = np.nonzero((np.abs(sheet - colour) < 3).all(axis=2))
        left = GAP + number % 3 * (CELL + GAP)
        assert len(rows) and left <= columns.min() and columns.max() < left + CELL
        assert rows.max() - rows.min() < CELL
        # Its shape is kept.
        seen = (columns.max() - columns.min() + 1) / (rows.max() - rows.min() + 1)
        assert seen == pytest.approx(shapes[number][1] / shapes[number][0], rel=0.2)


def test_an_image_that_cannot_be_decoded_has_a_cell(tmp_path: Path) -> None:
    contact_sheet([Picture(None, "bad-1", "its text")], tmp_path / "bad.png", "one")
    contact_sheet([_plain(8, 8, (1, 2, 3))], tmp_path / "good.png", "one")
    bad, good = (Image.open(tmp_path / name) for name in ("bad.png", "good.png"))
    assert bad.size == good.size and bad.tobytes() != good.tobytes()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"writing .*none.*sheet\.png failed: No such file or directory"):
        contact_sheet([_plain(8, 8, (1, 2, 3))], tmp_path / "none" / "sheet.png", "one")
