"""The picture of a plan shows packs, samples and patches against the limits, whatever the corpus holds."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from megatron_nmm.data.pack_plot import DOTS_PER_INCH, INCHES, draw_plan
from megatron_nmm.data.packing import Limits, pack
from megatron_nmm.data.plan_report import measure

SIZE = tuple(round(side * DOTS_PER_INCH) for side in INCHES)


def _picture(path: Path, tokens: list[int], patches: list[int], limits: Limits) -> np.ndarray:
    sizes = np.array(tokens), np.array(patches)
    draw_plan(path, measure(pack(*sizes, limits), *sizes, limits), "web")
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.size == SIZE
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize(
    ("tokens", "patches", "limits"),
    [
        ([5, 60, 30, 30] * 20, [0, 0, 16, 16] * 20, Limits(64, 32)),
        ([30], [16], Limits(64)),
        ([1], [0], Limits(1)),
    ],
)
def test_every_corpus_has_a_picture(tmp_path: Path, tokens: list[int], patches: list[int], limits: Limits) -> None:
    pixels = _picture(tmp_path / "a.png", tokens, patches, limits)
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    corners = [pixels[top : top + height, left : left + width] for top in (0, height) for left in (0, width)]
    coloured = [int((np.ptp(corner.astype(int), axis=2) > 60).sum()) for corner in corners]
    assert all(count > 500 for count in coloured[:3])
    # Without images the last quarter says so instead of drawing bars.
    assert (coloured[3] > 500) == any(patches)
    assert (corners[3] < 128).any()


def test_the_same_plan_gives_the_same_picture(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        _picture(tmp_path / name, [5, 60, 30], [0, 0, 16], Limits(64, 32))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
