"""``torch.ops.nmm.permute``: copy token rows to expert order. Shapes: T tokens, K choices, H width, R rows.

permute(x, row_map, rows) -> out
  x [T, H] of any dtype; row_map [T, K] int32 as ``dispatch_plan`` makes it: no row twice, -1 for a dropped choice
  out [rows, H]: out[row_map[t, k]] = x[t]; rows nobody maps to are zero
The gradient, permute_backward(grad, row_map), sums over K in fp32.
"""

from typing import Any

import torch

from nmm_kernels.checks import check_float, check_matrix, check_row_map, check_rows
from nmm_kernels.operator import Operator
from nmm_kernels.permute import reference


def fake_permute(x: torch.Tensor, row_map: torch.Tensor, rows: int) -> torch.Tensor:
    """Shape of ``permute``."""
    check_matrix("x", x)
    check_row_map(row_map, x.shape[0])
    check_rows(rows)
    return x.new_empty(rows, x.shape[1])


def fake_permute_backward(grad: torch.Tensor, row_map: torch.Tensor) -> torch.Tensor:
    """Shape of ``permute_backward``."""
    check_matrix("grad", grad)
    check_float("grad", grad)
    check_row_map(row_map)
    return grad.new_empty(row_map.shape[0], grad.shape[1])


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    """Keep the row map."""
    ctx.save_for_backward(inputs[1])


def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
    """Gradient of x."""
    return torch.ops.nmm.permute_backward(grad, *ctx.saved_tensors), None, None


PERMUTE = Operator(
    name="permute",
    schema="(Tensor x, Tensor row_map, int rows) -> Tensor",
    reference=reference.permute,
    fake=fake_permute,
    setup_context=setup_context,
    backward=backward,
)
PERMUTE_BACKWARD = Operator(
    name="permute_backward",
    schema="(Tensor grad, Tensor row_map) -> Tensor",
    reference=reference.permute_backward,
    fake=fake_permute_backward,
)
