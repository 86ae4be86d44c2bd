"""Scales by blocks: each block of a matrix is cast with a power of two of its own.

Shapes: R x C the matrix, r x c the block; the last blocks may be cut short. Powers of two make both the scaled value
and the value scaled back exact, so what a product reads is the matrix itself, rounded.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from megatron_nmm.precision.formats import Float8, rounded

EXPONENT = -(1 << 23)
"""Mask of sign and exponent of an fp32 number."""
MANTISSA = (1 << 23) - 1
BIAS = 127
Scale = Callable[[torch.Tensor, Float8], torch.Tensor]
"""(largest magnitudes, format) -> what values are multiplied by before they are cast."""


def largest_below(amax: torch.Tensor, float8: Float8) -> torch.Tensor:
    """The power of two at or below ``largest / amax``: Transformer Engine's scale for blocks of 128."""
    scale = (float8.largest / amax).clamp(max=torch.finfo(torch.float32).max)
    power = (scale.view(torch.int32) & EXPONENT).view(torch.float32)
    return torch.where((amax > 0) & amax.isfinite(), power, 1.0)


def shared_exponent(amax: torch.Tensor, float8: Float8) -> torch.Tensor:
    """1 / 2^e with 2^e the power of two at or above ``amax / largest``: MXFP8's scale, e an E8M0 exponent.

    Exponents below -126, of blocks smaller than any activation or gradient, count as -126: fp32 has no reciprocal of
    smaller ones. A block with an infinity or a NaN becomes NaN.
    """
    bits = (amax * (1 / float8.largest)).view(torch.int32)
    exponent = (bits >> 23) - BIAS + ((bits & MANTISSA) > 0).int()
    power = ((BIAS - exponent.clamp(-(BIAS - 1), BIAS - 1)) << 23).view(torch.float32)
    return torch.where(amax.isfinite(), power, torch.nan)


@dataclass(frozen=True)
class Block:
    """The part of a matrix that shares a scale: r rows x c columns, and how the scale is made."""

    rows: int
    columns: int
    scale: Scale

    @property
    def turned(self) -> "Block":
        """The same along the other dimension, for the product that sums over that one."""
        return Block(self.columns, self.rows, self.scale)


@dataclass(frozen=True)
class Lost:
    """What a cast did to values it could not hold; counts, on the device."""

    values: int
    underflow: torch.Tensor
    """Values other than 0 that became 0."""
    overflow: torch.Tensor
    """Values that were cut off at the largest."""


def cast_blocks(
    matrix: torch.Tensor, block: Block, float8: Float8, *, count: bool = False
) -> tuple[torch.Tensor, Lost | None]:
    """[R, C] fp32 -> the same as its blocks hold it, in fp32, and what was lost where ``count`` asks for it."""
    rows, columns = matrix.shape
    r, c = min(block.rows, max(rows, 1)), min(block.columns, max(columns, 1))
    padded = pad(matrix, (0, -columns % c, 0, -rows % r))
    tiles = padded.view(padded.shape[0] // r, r, padded.shape[1] // c, c)
    scale = block.scale(tiles.abs().amax((1, 3), keepdim=True), float8)
    scaled = tiles * scale
    values = rounded(scaled, float8)
    lost = lost_in(scaled, values, float8, matrix.numel()) if count else None
    return (values / scale).view_as(padded)[:rows, :columns], lost


def lost_in(scaled: torch.Tensor, values: torch.Tensor, float8: Float8, size: int) -> Lost:
    """Counts of ``scaled`` values and what they became; ``size`` leaves padding out."""
    return Lost(size, ((values == 0) & (scaled != 0)).sum(), (scaled.abs() > float8.cut_off).sum())
