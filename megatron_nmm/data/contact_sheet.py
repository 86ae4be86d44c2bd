"""Draws a contact sheet: many small pictures in a grid, each with its title and a few lines of text below."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from megatron_nmm.data.decoders.protocol import Pixels
from megatron_nmm.errors import DataError

CELL = 220
"""Width of a picture's cell, and height of the picture in it, in pixels."""
GAP = 16
COLUMNS = 5
TITLE_LINES, TEXT_LINES = 2, 4
TITLE_SIZE, TEXT_SIZE, HEADING_SIZE = 14, 13, 18
LINE = 1.3
"""Line height, relative to the size of the letters."""
PAPER, CARD, FRAME, INK, FAINT = "#f2f2ee", "#ffffff", "#c8c8c0", "#1a1a1a", "#5a5a5a"
ENLARGED = 12
"""Most that a small picture is enlarged, in whole steps: its pixels stay visible."""
ELLIPSIS = "…"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Picture:
    """One cell of a sheet."""

    pixels: Pixels | None
    """None: the image cannot be decoded; the cell says so."""
    title: str
    text: str


def contact_sheet(pictures: Sequence[Picture], path: Path, heading: str, columns: int = COLUMNS) -> None:
    """Write a PNG with ``pictures`` in rows under ``heading``; raises DataError when the disk refuses."""
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    fonts = {size: _font(size) for size in (TITLE_SIZE, TEXT_SIZE, HEADING_SIZE)}
    width = columns * (CELL + GAP) + GAP
    top = _wrap(heading, fonts[HEADING_SIZE], width - 2 * GAP, 3)
    head = GAP + round(len(top) * HEADING_SIZE * LINE) + GAP // 2
    sheet = Image.new("RGB", (width, head + rows * (_cell_height() + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    _lines(draw, (GAP, GAP), top, fonts[HEADING_SIZE], HEADING_SIZE, INK)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        _cell(sheet, draw, (GAP + column * (CELL + GAP), head + row * (_cell_height() + GAP)), picture, fonts)
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise DataError(f"writing {path} failed: {error.strerror or error}; make room or fix permissions") from error


def _cell_height() -> int:
    return CELL + round((TITLE_LINES * TITLE_SIZE + TEXT_LINES * TEXT_SIZE) * LINE) + GAP


def _cell(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], picture: Picture, fonts: dict[int, Font]
) -> None:
    left, top = corner
    draw.rectangle((left, top, left + CELL - 1, top + _cell_height() - 1), fill=CARD, outline=FRAME)
    if picture.pixels is None:
        draw.rectangle((left + 1, top + 1, left + CELL - 2, top + CELL - 2), fill="#f4d9d6")
        _lines(draw, (left + 8, top + CELL // 2 - TEXT_SIZE), ["cannot be decoded"], fonts[TEXT_SIZE], TEXT_SIZE, INK)
    else:
        small = _fitted(picture.pixels)
        x, y = left + (CELL - small.width) // 2, top + (CELL - small.height) // 2
        # A thin frame, or a white picture would have no edges.
        draw.rectangle((x - 1, y - 1, x + small.width, y + small.height), outline=FRAME)
        sheet.paste(small, (x, y))
    below = top + CELL + 4
    title = _wrap(picture.title, fonts[TITLE_SIZE], CELL - 12, TITLE_LINES)
    below = _lines(draw, (left + 6, below), title, fonts[TITLE_SIZE], TITLE_SIZE, INK)
    text = _wrap(picture.text, fonts[TEXT_SIZE], CELL - 12, TEXT_LINES)
    _lines(draw, (left + 6, below), text, fonts[TEXT_SIZE], TEXT_SIZE, FAINT)


def _fitted(pixels: Pixels) -> Image.Image:
    """The picture within CELL x CELL less a margin: reduced smoothly, or enlarged by a whole number."""
    image, room = Image.fromarray(np.ascontiguousarray(pixels)), CELL - 8
    longest = max(image.size)
    if longest > room:
        size = (max(1, image.width * room // longest), max(1, image.height * room // longest))
        return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    times = max(1, min(ENLARGED, room // longest))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def _lines(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], lines: Sequence[str], font: Font, size: int, colour: str
) -> int:
    """Write ``lines`` from ``corner`` down; where the next one would begin."""
    left, top = corner
    for line in lines:
        draw.text((left, top), line, fill=colour, font=font)
        top += round(size * LINE)
    return top


def _wrap(text: str, font: Font, width: int, most: int) -> list[str]:
    """``text`` in at most ``most`` lines of ``width`` pixels, broken at blanks where possible; cut with an ellipsis."""
    words = " ".join(text.split()).split(" ")
    lines: list[str] = []
    line = ""
    while words:
        word = words.pop(0)
        joined = f"{line} {word}".strip()
        if font.getlength(joined) <= width:
            line = joined
        elif line:
            lines.append(line)
            line, words = "", [word, *words]
        else:
            fitting = _fitting(word, font, width)
            lines.append(word[:fitting])
            words = [word[fitting:], *words]
        if len(lines) == most:
            left_over = " ".join(filter(None, [line, *words]))
            return [*lines[:-1], _cut(lines[-1], font, width)] if left_over else lines
    return [*lines, line] if line else lines


def _fitting(word: str, font: Font, width: int) -> int:
    """How many letters of ``word`` fit, at least one."""
    return next((n for n in range(len(word), 1, -1) if font.getlength(word[:n]) <= width), 1)


def _cut(line: str, font: Font, width: int) -> str:
    """``line`` shortened until an ellipsis fits behind it."""
    shorter = (line[:letters].rstrip() + ELLIPSIS for letters in range(len(line), 0, -1))
    return next((candidate for candidate in shorter if font.getlength(candidate) <= width), ELLIPSIS)


def _font(size: int) -> Font:
    """DejaVu Sans, which matplotlib brings along and which knows most alphabets."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size) if path.is_file() else ImageFont.load_default(size)
