"""Turns decoded pixels upright by their EXIF orientation, for decoders that leave it to the caller."""

from collections.abc import Callable

import numpy as np

from megatron_nmm.data.decoders.protocol import Pixels

TURNS: dict[object, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels),
}
"""EXIF 2.32, tag 0x0112: stored orientation -> what makes it upright; 1 and every undefined value stay as they are."""


def upright(pixels: Pixels, orientation: object) -> Pixels:
    """The pixels turned as the EXIF orientation says, contiguous in memory."""
    turn = TURNS.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))
