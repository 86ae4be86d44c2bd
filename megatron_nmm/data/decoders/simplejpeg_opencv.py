"""The fast decoder: simplejpeg for JPEG and OpenCV for WebP, Pillow for every other kind and for every doubt.

Taken by the fast path, decided from the header: JPEGs with 1 or 3 components, and still WebP without transparency.
CMYK, palettes, transparency, 16 bits, animations, PNG (where OpenCV is no faster and gives torn files half black), GIF,
BMP and TIFF go to Pillow, and so does any file the fast libraries refuse or warn about: the reference has the last
word, so both give the same pixels and the same errors. simplejpeg is used with the accurate cosine transform and the
smooth chroma upsampling of Pillow, hence bit-identical pixels.
"""

from importlib.metadata import version

import numpy as np
from PIL import Image

from megatron_nmm.data.decoders.header import JPEGS, TURNED, open_image, orientation, reduction
from megatron_nmm.data.decoders.pillow import PillowDecoder
from megatron_nmm.data.decoders.protocol import Least, Pixels
from megatron_nmm.data.decoders.upright import upright


class SimplejpegDecoder:
    """JPEG by simplejpeg, WebP by OpenCV, the rest by Pillow."""

    name = "simplejpeg"

    def __init__(self, scaled: bool = False) -> None:
        """``scaled``: JPEGs may be decoded at a reduced scale; raises ImportError when a library is missing."""
        import cv2
        import simplejpeg

        self._opencv = cv2
        self._simplejpeg = simplejpeg
        self._scaled = scaled
        self._reference = PillowDecoder(scaled)

    def describe(self) -> str:
        """The three libraries and their versions."""
        opencv = self._opencv.__version__
        return f"simplejpeg {version('simplejpeg')} (JPEG), OpenCV {opencv} (WebP), {self._reference.describe()} (rest)"

    def decode(self, encoded: bytes, least: Least | None = None) -> Pixels:
        """RGB pixels of one image; raises DataError when it is damaged, too large or of an unknown kind."""
        with open_image(encoded) as image:
            pixels = None
            if image.format in JPEGS and image.mode in ("L", "RGB"):
                turn = orientation(image, encoded)
                pixels = self._jpeg(encoded, image, least[::-1] if least and turn in TURNED else least)
            elif image.format == "WEBP" and image.mode == "RGB" and not getattr(image, "is_animated", False):
                turn = orientation(image, encoded)
                pixels = self._webp(encoded, image)
            if pixels is None:
                return self._reference.decode_opened(image, encoded, least)
        return upright(pixels, turn)

    def _jpeg(self, encoded: bytes, image: Image.Image, least: Least | None) -> Pixels | None:
        """Pixels before any turn, or None when simplejpeg has a doubt; ``least`` likewise before the turn."""
        width, height = image.size
        by = reduction(height, width, least) if self._scaled else 1
        height, width = -(-height // by), -(-width // by)
        try:
            pixels: Pixels = self._simplejpeg.decode_jpeg(
                encoded, "RGB", fastdct=False, fastupsample=False, min_height=height, min_width=width, strict=True
            )
        except ValueError:
            return None
        return pixels if pixels.shape == (height, width, 3) else None

    def _webp(self, encoded: bytes, image: Image.Image) -> Pixels | None:
        """Pixels before any turn, or None when OpenCV refuses."""
        flags = self._opencv.IMREAD_COLOR_RGB | self._opencv.IMREAD_IGNORE_ORIENTATION
        try:
            pixels: Pixels | None = self._opencv.imdecode(np.frombuffer(encoded, np.uint8), flags)
        except self._opencv.error:
            return None
        return pixels if pixels is not None and pixels.shape == (image.height, image.width, 3) else None
