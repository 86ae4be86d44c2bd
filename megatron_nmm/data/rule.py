"""The image rule: how many patches and decoder tokens an image becomes, agreed on by tokenise, pack and training."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from megatron_nmm.data.pyramid import PAD_PATCHES, pyramid
from megatron_nmm.errors import DataError

LAYOUT_TOKENS = ("begin_of_image", "end_of_line", "end_of_scale", "end_of_image")
"""Special tokens that lay out an image around its placeholders; like these they are never supervised."""

SPECIAL_ROWS = {"end_of_image": 3, "begin_of_image": 4, "end_of_line": 10, "end_of_scale": 11}
"""Rows of these tokens in a model's table of special embeddings, as in NaViL's released code."""
SPECIAL_TABLE = 12
"""Rows of that table: the others belong to boxes, quadrangles and references, which no image rule writes."""


@dataclass(frozen=True)
class Grid:
    """Patch rows and columns of one view of an image as the model sees it."""

    rows: int
    columns: int

    @property
    def patches(self) -> int:
        """Vision patches of the view."""
        return self.rows * self.columns


@dataclass(frozen=True)
class View:
    """One copy of an image as the model sees it: resized to ``height`` x ``width`` pixels, then padded to its grid."""

    grid: Grid
    height: int
    width: int


class ImageRule(Protocol):
    """What becomes of an image; two equal rules do the same to every image."""

    @property
    def name(self) -> str:
        """What the rule is called in corpus.json and ``data.image_rule``."""
        ...

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        ...

    @property
    def shuffle(self) -> int:
        """Side of the square of patches that becomes one decoder token; the patches of a token stand together."""
        ...

    def views(self, height: int, width: int) -> tuple[View, ...]:
        """The copies of an image of ``height`` x ``width`` pixels that the model sees, in order; DataError if none."""
        ...

    def image_ids(self, views: Sequence[View], special: Mapping[str, int]) -> list[int]:
        """The token ids that stand for one image; ``special`` is ``Tokenizer.special``."""
        ...

    def patches(self, views: Sequence[View]) -> int:
        """Vision patches of one image."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The rule as it stands in corpus.json."""
        ...

    def settings(self) -> str:
        """The values of a run's configuration that give this rule, for messages."""
        ...


@dataclass(frozen=True)
class SquareRule:
    """``square``: every image is resized to ``image_size`` x ``image_size`` pixels and cut into square patches."""

    image_size: int
    patch: int
    shuffle: int = 1
    name: str = "square"

    def __post_init__(self) -> None:
        _require_patch(self.patch)
        _require_shuffle(self.shuffle)
        unit = self.patch * self.shuffle
        if self.image_size < 1 or self.image_size % unit:
            nearest = max(1, round(self.image_size / unit)) * unit
            of = f"patch {self.patch}" if self.shuffle == 1 else f"patch {self.patch} x shuffle {self.shuffle}"
            raise DataError(f"image size {self.image_size} is not a multiple of {of}; use {nearest}")

    def views(self, height: int, width: int) -> tuple[View, ...]:
        """One view, the same for every image."""
        side = self.image_size // self.patch
        return (View(Grid(side, side), self.image_size, self.image_size),)

    def image_ids(self, views: Sequence[View], special: Mapping[str, int]) -> list[int]:
        """One placeholder for each square of ``shuffle`` x ``shuffle`` patches."""
        return [special["image"]] * (self.patches(views) // self.shuffle**2)

    def patches(self, views: Sequence[View]) -> int:
        """Vision patches of one image."""
        return sum(view.grid.patches for view in views)

    def to_json(self) -> dict[str, Any]:
        """The rule as it stands in corpus.json."""
        return asdict(self)

    def settings(self) -> str:
        """The values of a run's configuration that give this rule."""
        merging = f" and {_of_model(self.shuffle)}" if self.shuffle > 1 else ""
        return f"data.image_size={self.image_size} and model.vision.patch={self.patch}{merging}"


@dataclass(frozen=True)
class NativeRule:
    """``native``: an image keeps its shape and, within limits, its size (NaViL section 3 and its released code).

    It is resized only when it has fewer than ``min_patches`` or more than ``max_patches`` patches' worth of pixels,
    then zero-padded right and below to whole squares of 2 x 2 patches (32 pixels at NaViL's patch of 16) whatever
    ``shuffle`` is, so that models of every encoder depth see the same pixels.
    """

    patch: int
    min_patches: int
    max_patches: int
    multi_scale: bool
    """Smaller copies, each with half the pixels, stand before the image, smallest first."""
    shuffle: int
    name: str = "native"

    def __post_init__(self) -> None:
        _require_patch(self.patch)
        if not 1 <= self.min_patches <= self.max_patches:
            raise DataError(
                f"min_patches {self.min_patches} and max_patches {self.max_patches} leave no image between them; "
                "use 1 <= min_patches <= max_patches, NaViL has 256 and 24576"
            )
        _require_shuffle(self.shuffle)

    def views(self, height: int, width: int) -> tuple[View, ...]:
        """The image, and its smaller copies before it; DataError when it is too thin."""
        budget = (self.min_patches, self.max_patches)
        sizes = pyramid(height, width, self.patch, budget, levels=None if self.multi_scale else 1)
        return tuple(View(Grid(*size.grid), size.height, size.width) for size in sizes)

    def image_ids(self, views: Sequence[View], special: Mapping[str, int]) -> list[int]:
        """begin_of_image; per view its rows, each closed by end_of_line, and end_of_scale; end_of_image."""
        ids = [special["begin_of_image"]]
        for view in views:
            row = [special["image"]] * (view.grid.columns // self.shuffle) + [special["end_of_line"]]
            ids += row * (view.grid.rows // self.shuffle) + [special["end_of_scale"]]
        return [*ids, special["end_of_image"]]

    def patches(self, views: Sequence[View]) -> int:
        """Vision patches of one image over its views."""
        return sum(view.grid.patches for view in views)

    def to_json(self) -> dict[str, Any]:
        """The rule as it stands in corpus.json."""
        return asdict(self)

    def settings(self) -> str:
        """The values of a run's configuration that give this rule."""
        return (
            f"data.image_rule=native, data.min_patches={self.min_patches}, data.max_patches={self.max_patches}, "
            f"data.multi_scale={str(self.multi_scale).lower()}, model.vision.patch={self.patch} and "
            f"{_of_model(self.shuffle)}"
        )


def rule_of(
    name: str,
    *,
    patch: int,
    image_size: int,
    min_patches: int = 256,
    max_patches: int = 24_576,
    multi_scale: bool = False,
    shuffle: int = 1,
) -> ImageRule:
    """The rule called ``name`` with the values it uses; raises DataError when they do not fit each other."""
    if name == "square":
        return SquareRule(image_size, patch, shuffle)
    if name == "native":
        return NativeRule(patch, min_patches, max_patches, multi_scale, shuffle)
    raise DataError(f"image rule {name!r} is unknown; use square or native")


def rule_from_json(values: dict[str, Any], where: str) -> ImageRule:
    """The rule written in ``where``; raises DataError when this version does not know it."""
    kinds: dict[str, type[SquareRule] | type[NativeRule]] = {"square": SquareRule, "native": NativeRule}
    kind = kinds.get(str(values.get("name")))
    if kind is None or set(values) != {field.name for field in fields(kind)}:
        raise DataError(
            f"{where} uses image rule {values.get('name')!r}, which this version does not know; tokenise the corpus "
            "again with tools/tokenise.py"
        )
    return kind(**values)


def layout_ids(special: Mapping[str, int]) -> tuple[int, ...]:
    """Ids of the tokens that lay out images."""
    return tuple(special[name] for name in LAYOUT_TOKENS)


def special_rows(special: Mapping[str, int]) -> dict[int, int]:
    """Token id -> row in a table of special embeddings, of the tokens that lay out images."""
    return {special[name]: row for name, row in SPECIAL_ROWS.items()}


def _of_model(shuffle: int) -> str:
    """The model that merges this many patches, for messages."""
    return "a connector that is not pixel_shuffle" if shuffle == 1 else "model.vision.connector=pixel_shuffle"


def _require_shuffle(shuffle: int) -> None:
    if shuffle < 1 or PAD_PATCHES % shuffle:
        raise DataError(f"shuffle {shuffle} does not divide the {PAD_PATCHES} patches of padding; use 1 or 2")


def _require_patch(patch: int) -> None:
    if patch < 1:
        raise DataError(f"patch {patch} is not a number of pixels; use 1 or more, 14 or 16 are usual")
