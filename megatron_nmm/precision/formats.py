"""The two 8-bit floats, and casts to them that saturate as a GPU's do.

Both are exact in torch on any device: a cast rounds to nearest even, subnormals included, and a float8 value times a
float8 value is exact in fp32. OCP 8-bit Floating Point Specification, revision 1.0.
"""

from dataclasses import dataclass

import torch

from megatron_nmm.config.recipes import Format


@dataclass(frozen=True)
class Float8:
    """One format."""

    dtype: torch.dtype
    largest: float
    """Largest finite value; what is larger becomes this."""
    cut_off: float
    """What is beyond this becomes the largest value by being cut off, and not by rounding."""


FORMATS: dict[Format, Float8] = {
    "e4m3": Float8(torch.float8_e4m3fn, 448.0, 464.0),
    "e5m2": Float8(torch.float8_e5m2, 57344.0, 61440.0),
}
"""e4m3: 3 bits of mantissa, down to 2^-9. e5m2: 2 bits of mantissa, down to 2^-16."""


def rounded(scaled: torch.Tensor, float8: Float8) -> torch.Tensor:
    """fp32 values as the format holds them, in fp32 again; beyond the largest they stay there, NaN stays NaN."""
    return scaled.clamp(-float8.largest, float8.largest).to(float8.dtype).float()
