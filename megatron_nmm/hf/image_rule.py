"""How many patches and tokens an image becomes: the rules square and native, as training has them.

Native follows NaViL (arXiv 2510.08565, section 3) and its released image processor: an image keeps its shape and,
within limits, its size; smaller copies with half the pixels each may stand before it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PAD_PATCHES = 2
"""Under the native rule images are padded to whole squares of this many patches a side."""
THINNEST = 200
"""Largest ratio of the sides under the native rule."""


@dataclass(frozen=True)
class View:
    """One copy of an image: resized to ``height`` x ``width`` pixels, then padded to ``rows`` x ``columns`` patches."""

    height: int
    width: int
    rows: int
    columns: int

    @property
    def patches(self) -> int:
        """Patches after padding."""
        return self.rows * self.columns


@dataclass(frozen=True)
class ImageRule:
    """``name`` square reads ``image_size``; native ``min_patches``, ``max_patches`` and ``multi_scale``."""

    name: str
    patch_size: int
    merge_size: int
    image_size: int
    min_patches: int
    max_patches: int
    multi_scale: bool

    def views(self, height: int, width: int) -> list[View]:
        """The copies of an image of ``height`` x ``width`` pixels, smallest first.

        ValueError for an unknown rule and, under the native one, for sides beyond 200 : 1.
        """
        if self.name == "square":
            side = self.image_size // self.patch_size
            return [View(self.image_size, self.image_size, side, side)]
        if self.name != "native":
            raise ValueError(f"image_rule {self.name!r} is unknown; use square or native")
        if max(height, width) > THINNEST * min(height, width):
            raise ValueError(f"an image of {width} x {height} pixels is thinner than 1 : {THINNEST}; crop it")
        fewest, most = self.min_patches * self.patch_size**2, float(self.max_patches * self.patch_size**2)
        found = [self._level(height, width, fewest, most)]
        while self.multi_scale:
            most = found[0].patches * self.patch_size**2 / 2
            level = self._level(height, width, fewest, most)
            if most < fewest or level.patches >= found[0].patches:
                break
            found.insert(0, level)
        return found

    def _level(self, height: int, width: int, fewest: int, most: float) -> View:
        """The image resized just enough to have between ``fewest`` and ``most`` pixels, then padded."""
        pixels = height * width
        if pixels > most:
            scale = math.sqrt(pixels / most)
            height, width = max(1, math.floor(height / scale)), max(1, math.floor(width / scale))
        elif pixels < fewest:
            scale = math.sqrt(fewest / pixels)
            height, width = math.ceil(height * scale), math.ceil(width * scale)
        side = self.patch_size * PAD_PATCHES
        return View(height, width, -(-height // side) * PAD_PATCHES, -(-width // side) * PAD_PATCHES)

    def ids(self, grids: Sequence[tuple[int, int]], special: Mapping[str, int]) -> list[int]:
        """The token ids that stand for one image with views of ``grids`` (rows, columns in patches).

        square: a placeholder for every square of merge_size x merge_size patches. native: begin_of_image; per view its
        rows, each closed by end_of_line, and end_of_scale; end_of_image.
        """
        merged = [(rows // self.merge_size, columns // self.merge_size) for rows, columns in grids]
        if self.name == "square":
            return [special["image"]] * sum(rows * columns for rows, columns in merged)
        ids = [special["begin_of_image"]]
        for rows, columns in merged:
            ids += ([special["image"]] * columns + [special["end_of_line"]]) * rows + [special["end_of_scale"]]
        return [*ids, special["end_of_image"]]
