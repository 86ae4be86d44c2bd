"""Reads what an image says about itself before its pixels are decoded, and holds it to the limits."""

import io
import struct

from PIL import Image

from megatron_nmm.data.decoders.protocol import Least, Size
from megatron_nmm.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are opened; none of their parsers starts another program."""
JPEGS = ("JPEG", "MPO")
"""What Pillow calls a JPEG file; MPO holds several pictures, the first of which counts."""
MAX_PIXELS = 1 << 26
"""Largest image that is decoded (67 million pixels, 200 MB of RGB): a guard against decompression bombs."""
MAX_BYTES = 1 << 28
"""Largest encoded image that is opened."""
ORIENTATION = 0x0112
"""EXIF tag of the orientation, 1 to 8."""
TURNED = (5, 6, 7, 8)
"""Orientations that exchange height and width."""
_PNG_EXIF_MARKS = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type exif")
BROKEN = (OSError, SyntaxError, ValueError, struct.error, EOFError, OverflowError, MemoryError, IndexError, KeyError)
"""What Pillow's parsers raise on damaged files."""


def read_size(encoded: bytes) -> Size:
    """The size of an image from its header alone; raises DataError when it is no image or too large."""
    with open_image(encoded) as image:
        width, height = image.size
        turned = orientation(image, encoded) in TURNED
    return Size(width, height) if turned else Size(height, width)


def orientation(image: Image.Image, encoded: bytes) -> object:
    """EXIF orientation as found: 1 to 8, or anything in a careless file; DataError when the block is damaged."""
    if image.format == "PNG" and not any(mark in encoded for mark in _PNG_EXIF_MARKS):
        # Pillow looks for EXIF behind the pixels of a PNG, too, by decoding all of it.
        return 1
    try:
        return image.getexif().get(ORIENTATION, 1)
    except BROKEN as error:
        raise DataError(f"the image's EXIF block is damaged: {error}") from error


def reduction(height: int, width: int, least: Least | None) -> int:
    """The power of two, 8 at most, by which both sides can shrink without falling below ``least``."""
    if least is None:
        return 1
    most = min(height // max(1, least[0]), width // max(1, least[1]))
    return next((by for by in (8, 4, 2) if most >= by), 1)


def open_image(encoded: bytes) -> Image.Image:
    """The image with only its header read; raises DataError when it is no image or above the limits."""
    if not encoded:
        raise DataError("the image file is empty")
    if len(encoded) > MAX_BYTES:
        raise DataError(f"the image has {len(encoded)} bytes, more than the limit of {MAX_BYTES}; shrink it")
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(f"the image is larger than the limit of {MAX_PIXELS} pixels; shrink it") from error
    except BROKEN as error:
        raise DataError(f"the bytes are no image of {', '.join(FORMATS)}; convert it") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise DataError(f"the image has {width} x {height} pixels, more than the limit of {MAX_PIXELS}; shrink it")
    return image
