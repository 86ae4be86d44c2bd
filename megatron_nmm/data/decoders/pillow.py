"""The reference decoder, Pillow: always there, opens every kind, and says what the others must agree with."""

from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageOps

from megatron_nmm.data.decoders.header import BROKEN, JPEGS, TURNED, open_image, orientation
from megatron_nmm.data.decoders.protocol import Least, Pixels
from megatron_nmm.errors import DataError


class PillowDecoder:
    """The reference decoder."""

    name = "pillow"

    def __init__(self, scaled: bool = False) -> None:
        """``scaled``: JPEGs may be decoded at a reduced scale."""
        self._scaled = scaled

    def describe(self) -> str:
        """Pillow and its version."""
        return f"Pillow {PIL.__version__}"

    def decode(self, encoded: bytes, least: Least | None = None) -> Pixels:
        """RGB pixels of one image; raises DataError when it is damaged, too large or of an unknown kind."""
        with open_image(encoded) as image:
            return self.decode_opened(image, encoded, least)

    def decode_opened(self, image: Image.Image, encoded: bytes, least: Least | None) -> Pixels:
        """``decode`` of ``encoded`` whose header is read: ``image`` is what ``open_image`` made of it."""
        try:
            if self._scaled and least is not None and image.format in JPEGS:
                turned = orientation(image, encoded) in TURNED
                image.draft(None, least if turned else least[::-1])
            return _rgb(ImageOps.exif_transpose(image))
        except BROKEN as error:
            raise DataError(f"the image cannot be decoded: {error}") from error


def verify(encoded: bytes) -> None:
    """Raise DataError unless the whole image decodes."""
    PillowDecoder().decode(encoded)


def _rgb(image: Image.Image) -> Pixels:
    """uint8 RGB of any mode Pillow opens."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _rgb_from_deep_grey(image)
    if image.has_transparency_data:
        # Invisible pixels often carry arbitrary colours; over white they look as a page shows them.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _rgb_from_deep_grey(image: Image.Image) -> Pixels:
    """Grey of 16 bits to RGB; Pillow's own conversion clips at 255 instead of scaling."""
    values: npt.NDArray[Any] = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65_535:
        raise DataError(f"grey values of mode {image.mode} have no defined scale; store the image with 8 or 16 bits")
    grey = ((values.astype(np.uint32) * 255 + 32_767) // 65_535).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
