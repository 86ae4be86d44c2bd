"""The image rule: how many decoder tokens an image becomes, agreed on once by tokenise, pack and the training run."""

from dataclasses import asdict, dataclass
from typing import Any

from megatron_nmm.errors import DataError


@dataclass(frozen=True)
class Grid:
    """Patch rows and columns of one image as the model sees it."""

    rows: int
    columns: int

    @property
    def patches(self) -> int:
        """Vision patches of the image."""
        return self.rows * self.columns


@dataclass(frozen=True)
class ImageRule:
    """``square``: every image is resized to ``image_size`` x ``image_size`` pixels and cut into square patches."""

    image_size: int
    patch: int
    name: str = "square"

    def __post_init__(self) -> None:
        if self.patch < 1:
            raise DataError(f"patch {self.patch} is not a number of pixels; use 1 or more, 14 or 16 are usual")
        if self.image_size < 1 or self.image_size % self.patch:
            nearest = max(1, round(self.image_size / self.patch)) * self.patch
            raise DataError(f"image size {self.image_size} is not a multiple of patch {self.patch}; use {nearest}")

    def grid(self, height: int, width: int) -> Grid:
        """The grid of an image of ``height`` x ``width`` pixels."""
        side = self.image_size // self.patch
        return Grid(side, side)

    def tokens(self, grid: Grid) -> int:
        """Decoder tokens of an image with this grid: one per patch."""
        return grid.patches

    def to_json(self) -> dict[str, Any]:
        """The rule as it stands in corpus.json."""
        return asdict(self)


def rule_from_json(values: dict[str, Any], where: str) -> ImageRule:
    """The rule written in ``where``; raises DataError when this version does not know it."""
    if values.get("name") != "square":
        raise DataError(
            f"{where} uses image rule {values.get('name')!r}, which this version does not know; tokenise the corpus "
            "again with tools/tokenise.py"
        )
    return ImageRule(image_size=int(values["image_size"]), patch=int(values["patch"]))
