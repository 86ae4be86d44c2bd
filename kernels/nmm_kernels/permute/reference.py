"""``permute`` and its gradient in plain PyTorch. Shapes: T tokens, K choices, H width, R rows in expert order."""

import torch

from nmm_kernels.checks import check_float, check_matrix, check_row_map, check_rows
from nmm_kernels.combine.reference import combine


def permute(x: torch.Tensor, row_map: torch.Tensor, rows: int) -> torch.Tensor:
    """[T, H] -> [R, H]: row_map[t, k] holds a copy of x[t]; rows nobody maps to are zero."""
    check_matrix("x", x)
    check_row_map(row_map, x.shape[0])
    check_rows(rows)
    kept = row_map >= 0
    out = x.new_zeros(rows, x.shape[1])
    out[row_map[kept].long()] = x[kept.nonzero()[:, 0]]
    return out


def permute_backward(grad: torch.Tensor, row_map: torch.Tensor) -> torch.Tensor:
    """[R, H] -> [T, H]: each token sums over its choices, which is a combine without probabilities."""
    check_matrix("grad", grad)
    check_float("grad", grad)
    return combine(grad, row_map, None)
