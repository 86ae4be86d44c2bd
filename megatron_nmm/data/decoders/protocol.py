"""What every image decoder promises: the same uint8 RGB pixels for the same bytes, or a DataError.

Whatever the file holds becomes uint8 [height, width, 3]: EXIF orientation applied, the first frame of an animation,
transparency laid over white, 16-bit grey scaled to 8 bits (not clipped), palettes and CMYK converted.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""[height, width, 3] RGB."""

Least = tuple[int, int]
"""Height and width in pixels that a decoded image must have at least."""


@dataclass(frozen=True)
class Size:
    """Pixels of an image after its EXIF orientation is applied."""

    height: int
    width: int


class Decoder(Protocol):
    """Anything that turns one encoded image into pixels; safe to use from several threads."""

    @property
    def name(self) -> str:
        """The value of ``data.decoder`` that chooses it."""
        ...

    def describe(self) -> str:
        """The libraries behind it with their versions, for the run's first lines."""
        ...

    def decode(self, encoded: bytes, least: Least | None = None) -> Pixels:
        """RGB pixels of one image; raises DataError when it is damaged, too large or of an unknown kind.

        A decoder made with ``scaled=True`` may give a JPEG at 1/2, 1/4 or 1/8 of its size, as small as ``least``
        allows; every other image, and all without ``least``, come at full size.
        """
        ...
