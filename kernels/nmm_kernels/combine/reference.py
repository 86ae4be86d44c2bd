"""``combine`` and its gradient in plain PyTorch. Shapes: T tokens, K choices, H width, R rows in expert order."""

import torch

from nmm_kernels.checks import (
    check_combine_backward,
    check_float,
    check_matrix,
    check_probabilities,
    check_row_map,
    wide,
)


def combine(y: torch.Tensor, row_map: torch.Tensor, probabilities: torch.Tensor | None) -> torch.Tensor:
    """[R, H] -> [T, H]: sum over k of probabilities[t, k] * y[row_map[t, k]] in fp32; dropped choices add nothing."""
    check_matrix("y", y)
    check_float("y", y)
    check_row_map(row_map)
    if probabilities is not None:
        check_probabilities(probabilities, row_map, y)
    kept = row_map >= 0
    parts = y[row_map[kept].long()].to(wide(y.dtype))
    if probabilities is not None:
        parts = parts * probabilities[kept][:, None]
    out = parts.new_zeros(row_map.shape[0], y.shape[1])
    return out.index_add_(0, kept.nonzero()[:, 0], parts).to(y.dtype)


def combine_backward(
    grad: torch.Tensor, y: torch.Tensor, row_map: torch.Tensor, probabilities: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient [T, H] -> gradient of y [R, H] (zero where nobody maps to), gradient of the probabilities [T, K]."""
    check_combine_backward(grad, y, row_map, probabilities)
    kept = row_map >= 0
    row = row_map[kept].long()
    wide_grad = grad.to(probabilities.dtype)[kept.nonzero()[:, 0]]
    grad_y = torch.zeros_like(y, memory_format=torch.contiguous_format)
    grad_y[row] = (wide_grad * probabilities[kept][:, None]).to(y.dtype)
    grad_probabilities = torch.zeros_like(probabilities, memory_format=torch.contiguous_format)
    grad_probabilities[kept] = (wide_grad * y[row].to(probabilities.dtype)).sum(-1)
    return grad_y, grad_probabilities
