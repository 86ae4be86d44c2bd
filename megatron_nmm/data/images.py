"""Encoded image bytes to RGB pixels: one protocol, one decoder that is always there (Pillow), one definition of "RGB".

Whatever the file holds becomes uint8 [height, width, 3]: EXIF orientation applied, the first frame of an animation,
transparency laid over white, 16-bit grey scaled to 8 bits (not clipped), palettes and CMYK converted.
"""

import io
import struct
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from megatron_nmm.errors import DataError

Pixels = npt.NDArray[np.uint8]
"""[height, width, 3] RGB."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are opened; none of their parsers starts another program."""
MAX_PIXELS = 1 << 26
"""Largest image that is decoded (67 million pixels, 200 MB of RGB): a guard against decompression bombs."""
MAX_BYTES = 1 << 28
"""Largest encoded image that is opened."""
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
"""Orientations that exchange height and width."""
_PNG_EXIF_MARKS = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type exif")
_BROKEN = (OSError, SyntaxError, ValueError, struct.error, EOFError, OverflowError, MemoryError, IndexError, KeyError)
"""What Pillow's parsers raise on damaged files."""


@dataclass(frozen=True)
class Size:
    """Pixels of an image after its EXIF orientation is applied."""

    height: int
    width: int


class Decoder(Protocol):
    """Anything that turns one encoded image into pixels; raises DataError when it cannot."""

    name: str

    def decode(self, encoded: bytes) -> Pixels:
        """RGB pixels of one image."""
        ...


class PillowDecoder:
    """The reference decoder."""

    name = "pillow"

    def decode(self, encoded: bytes) -> Pixels:
        """RGB pixels of one image; raises DataError when it is damaged, too large or of an unknown kind."""
        with _open(encoded) as image:
            try:
                return _rgb(ImageOps.exif_transpose(image))
            except _BROKEN as error:
                raise DataError(f"the image cannot be decoded: {error}") from error


def read_size(encoded: bytes) -> Size:
    """The size of an image from its header alone; raises DataError when it is no image or too large."""
    with _open(encoded) as image:
        width, height = image.size
        try:
            turned = _orientation(image, encoded) in _TURNED
        except _BROKEN as error:
            raise DataError(f"the image's EXIF block is damaged: {error}") from error
    return Size(width, height) if turned else Size(height, width)


def _orientation(image: Image.Image, encoded: bytes) -> object:
    """EXIF orientation as found: 1 to 8, or anything in a careless file."""
    if image.format == "PNG" and not any(mark in encoded for mark in _PNG_EXIF_MARKS):
        # Pillow looks for EXIF behind the pixels of a PNG, too, by decoding all of it.
        return 1
    return image.getexif().get(_ORIENTATION, 1)


def _open(encoded: bytes) -> Image.Image:
    """The image with only its header read, within the limits."""
    if not encoded:
        raise DataError("the image file is empty")
    if len(encoded) > MAX_BYTES:
        raise DataError(f"the image has {len(encoded)} bytes, more than the limit of {MAX_BYTES}; shrink it")
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(f"the image is larger than the limit of {MAX_PIXELS} pixels; shrink it") from error
    except _BROKEN as error:
        raise DataError(f"the bytes are no image of {', '.join(FORMATS)}; convert it") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise DataError(f"the image has {width} x {height} pixels, more than the limit of {MAX_PIXELS}; shrink it")
    return image


def _rgb(image: Image.Image) -> Pixels:
    """uint8 RGB of any mode Pillow opens."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _rgb_from_deep_grey(image)
    if image.has_transparency_data:
        # Invisible pixels often carry arbitrary colours; over white they look as a page shows them.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _rgb_from_deep_grey(image: Image.Image) -> Pixels:
    """Grey of 16 bits to RGB; Pillow's own conversion clips at 255 instead of scaling."""
    values: npt.NDArray[Any] = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65_535:
        raise DataError(f"grey values of mode {image.mode} have no defined scale; store the image with 8 or 16 bits")
    grey = ((values.astype(np.uint32) * 255 + 32_767) // 65_535).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
