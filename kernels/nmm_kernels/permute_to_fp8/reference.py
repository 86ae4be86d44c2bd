"""``permute_to_fp8`` in plain PyTorch: permute, then one scale for every 128 values.

Shapes: T tokens, K choices, H width, R rows, G = ceil(H / 128) groups. The scale is the group's largest magnitude over
448, the largest e4m3 value, so value * scale = x. Values are x times the rounded reciprocal of the scale: one division
a group, and the same bits from every implementation.
"""

import torch

from nmm_kernels.checks import require
from nmm_kernels.permute.reference import permute

GROUP = 128
LARGEST = 448.0
SMALLEST_SCALE = 2.0**-126
"""The smallest normal fp32: the reciprocal of a smaller scale could overflow."""


def check_narrow(x: torch.Tensor) -> None:
    """``x`` is one of the dtypes that are cast to 8 bits."""
    allowed = (torch.float32, torch.bfloat16, torch.float16)
    require(x.dtype in allowed, f"x is {x.dtype}; convert it to float32, bfloat16 or float16")


def permute_to_fp8(x: torch.Tensor, row_map: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[T, H] -> e4m3 values [R, H], fp32 scales [R, G]; rows nobody maps to are zero with scale 1."""
    check_narrow(x)
    permuted = permute(x, row_map, rows).float()
    width = x.shape[1]
    groups = -(-width // GROUP)
    padded = torch.nn.functional.pad(permuted, (0, groups * GROUP - width)).view(rows, groups, GROUP)
    # A maximum over zeros alone must not fail where there are no rows or no columns; NaN stays NaN.
    largest = padded.abs().amax(-1)
    scales = torch.where(largest == 0, 1.0, (largest / LARGEST).clamp(min=SMALLEST_SCALE))
    values = (padded * (1.0 / scales)[..., None]).view(rows, groups * GROUP)[:, :width]
    return values.to(torch.float8_e4m3fn).contiguous(), scales
