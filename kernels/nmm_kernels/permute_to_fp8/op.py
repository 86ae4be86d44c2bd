"""``torch.ops.nmm.permute_to_fp8``: permute and cast in one pass. Shapes: T tokens, K choices, H width, R rows.

permute_to_fp8(x, row_map, rows) -> (values, scales)
  x [T, H] bf16, fp16 or fp32; row_map [T, K] int32 as for ``permute``
  values [rows, H] e4m3; scales [rows, ceil(H / 128)] fp32, values * scales = x; 1 for a group of zeros
A group that holds an infinity or a NaN comes back as NaN. There is no gradient: backward raises.
"""

from typing import Any, NoReturn

import torch

from nmm_kernels.checks import check_matrix, check_row_map, check_rows
from nmm_kernels.operator import Operator
from nmm_kernels.permute_to_fp8 import reference


def fake_permute_to_fp8(x: torch.Tensor, row_map: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Shapes of ``permute_to_fp8``."""
    check_matrix("x", x)
    reference.check_narrow(x)
    check_row_map(row_map, x.shape[0])
    check_rows(rows)
    groups = -(-x.shape[1] // reference.GROUP)
    return x.new_empty(rows, x.shape[1], dtype=torch.float8_e4m3fn), x.new_empty(rows, groups, dtype=torch.float32)


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    """Nothing to keep."""


def backward(ctx: Any, *grads: torch.Tensor) -> NoReturn:
    """Say that there is no gradient."""
    raise RuntimeError(
        "permute_to_fp8 has no gradient, and one was asked for; call it under torch.no_grad() inside a function that"
        " brings its own backward, or use permute"
    )


PERMUTE_TO_FP8 = Operator(
    name="permute_to_fp8",
    schema="(Tensor x, Tensor row_map, int rows) -> (Tensor values, Tensor scales)",
    reference=reference.permute_to_fp8,
    fake=fake_permute_to_fp8,
    setup_context=setup_context,
    backward=backward,
)
