"""The sizes an image is seen at under the native rule: its own, and below it copies with half the pixels each.

After NaViL section 3 and its released image processor: pixels count before padding for the limits, after padding for
the halving, and every copy is made from the original image.
"""

import math
from dataclasses import dataclass

from megatron_nmm.errors import DataError

PAD_PATCHES = 2
"""Images are padded to whole squares of this many patches a side, which a 2 x 2 pixel shuffle merges into one token."""
LEVEL = 0.5
"""Pixels of a level relative to the next larger one: tau squared with tau = sqrt(1/2) a side."""
THINNEST = 200
"""Largest ratio of the sides; thinner images are mostly padding."""


@dataclass(frozen=True)
class Sized:
    """One level."""

    height: int
    width: int
    """Pixels before padding."""
    grid: tuple[int, int]
    """Rows and columns of patches after padding."""

    @property
    def patches(self) -> int:
        """Patches after padding."""
        return self.grid[0] * self.grid[1]


def pyramid(height: int, width: int, patch: int, budget: tuple[int, int], levels: int | None = None) -> list[Sized]:
    """The levels of an image of ``height`` x ``width`` pixels, smallest first; at most ``levels`` of them.

    budget: fewest and most patches. The largest level keeps the image's size if its pixels lie within; a further level
    is made while half the pixels of the last one are no fewer than the budget's lower end and it comes out smaller.
    Padding may add up to one square of patches a side to the upper end. Raises DataError for sides beyond 200 : 1.
    """
    if max(height, width) > THINNEST * min(height, width):
        raise DataError(f"an image of {width} x {height} pixels is thinner than 1 : {THINNEST}; crop or remove it")
    fewest, most = budget[0] * patch**2, float(budget[1] * patch**2)
    found = [_level(height, width, patch, fewest, most)]
    while levels is None or len(found) < levels:
        most = found[0].patches * patch**2 * LEVEL
        if most < fewest:
            break
        level = _level(height, width, patch, fewest, most)
        if level.patches >= found[0].patches:
            break
        found.insert(0, level)
    return found


def _level(height: int, width: int, patch: int, fewest: int, most: float) -> Sized:
    """The image resized just enough to have between ``fewest`` and ``most`` pixels, then padded."""
    pixels = height * width
    if pixels > most:
        scale = math.sqrt(pixels / most)
        height, width = max(1, math.floor(height / scale)), max(1, math.floor(width / scale))
    elif pixels < fewest:
        scale = math.sqrt(fewest / pixels)
        height, width = math.ceil(height * scale), math.ceil(width * scale)
    side = patch * PAD_PATCHES
    grid = (-(-height // side) * PAD_PATCHES, -(-width // side) * PAD_PATCHES)
    return Sized(height, width, grid)
