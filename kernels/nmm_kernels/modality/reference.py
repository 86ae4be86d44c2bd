"""``modality_gather``, ``modality_scatter`` and their gradients in plain PyTorch.

Shapes: T rows in sequence order, N of one modality, M of the other, H width. Indices come from one permutation, so no
row is read twice and every gradient is a copy: none needs the scatter-add that torch's own gradients would do.
"""

import torch

from nmm_kernels.checks import check_dtype, check_gather_backward, check_index, check_matrix, check_rows, require


def modality_gather(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """[T, H] and [N] int64 -> [N, H]: x[index]."""
    check_matrix("x", x)
    check_index("index", index)
    return x[index]


def modality_gather_backward(grad: torch.Tensor, index: torch.Tensor, rows: int) -> torch.Tensor:
    """[N, H] -> [T, H]: row index[n] is grad[n]; rows that were not gathered are zero."""
    check_gather_backward(grad, index, "index")
    check_rows(rows)
    out = grad.new_zeros(rows, grad.shape[1])
    out[index] = grad
    return out


def check_scatter(a: torch.Tensor, b: torch.Tensor, home: torch.Tensor) -> None:
    """Raise RuntimeError where ``modality_scatter`` cannot take these arguments."""
    check_matrix("a", a)
    check_matrix("b", b)
    check_index("home", home)
    require(a.shape[1] == b.shape[1], f"a is {a.shape[1]} wide and b {b.shape[1]}; give both the same width")
    check_dtype("b", b, a.dtype)


def modality_scatter(a: torch.Tensor, b: torch.Tensor, home: torch.Tensor) -> torch.Tensor:
    """[N, H], [M, H] and [T] int64 -> [T, H]: cat(a, b)[home], without making the concatenation."""
    check_scatter(a, b, home)
    return torch.cat([a, b])[home]


def modality_scatter_backward(
    grad: torch.Tensor, home: torch.Tensor, rows_a: int, rows_b: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """[T, H] -> gradients [N, H] of a and [M, H] of b; rows that ``home`` leaves out are zero."""
    check_gather_backward(grad, home, "home")
    both = modality_gather_backward(grad, home, rows_a + rows_b)
    # An operator may not return two views of one storage.
    return both[:rows_a].clone(), both[rows_a:].clone()
