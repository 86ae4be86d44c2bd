"""``torch.ops.nmm.modality_gather`` and ``modality_scatter``: two-way routing by modality, as in NaViL.

Shapes: T rows in sequence order, N of one modality, M of the other, H width.
modality_gather(x, index) -> x[index]            x [T, H] of any dtype; index [N] int64, no row twice
modality_scatter(a, b, home) -> cat(a, b)[home]  a [N, H], b [M, H]; home [T] int64, no row twice, rows may be left out
Gradients are copies; a row that took no part has a gradient of zero.
"""

from typing import Any

import torch

from nmm_kernels.checks import check_gather_backward, check_index, check_matrix, check_rows
from nmm_kernels.modality import reference
from nmm_kernels.operator import Operator


def fake_gather(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Shape of ``modality_gather``."""
    check_matrix("x", x)
    check_index("index", index)
    return x.new_empty(index.shape[0], x.shape[1])


def fake_gather_backward(grad: torch.Tensor, index: torch.Tensor, rows: int) -> torch.Tensor:
    """Shape of ``modality_gather_backward``."""
    check_gather_backward(grad, index, "index")
    check_rows(rows)
    return grad.new_empty(rows, grad.shape[1])


def setup_gather(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    """Keep the index and how many rows there were."""
    ctx.rows = inputs[0].shape[0]
    ctx.save_for_backward(inputs[1])


def backward_gather(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
    """Gradient of x."""
    return torch.ops.nmm.modality_gather_backward(grad, *ctx.saved_tensors, ctx.rows), None


def fake_scatter(a: torch.Tensor, b: torch.Tensor, home: torch.Tensor) -> torch.Tensor:
    """Shape of ``modality_scatter``."""
    reference.check_scatter(a, b, home)
    return a.new_empty(home.shape[0], a.shape[1])


def fake_scatter_backward(
    grad: torch.Tensor, home: torch.Tensor, rows_a: int, rows_b: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shapes of ``modality_scatter_backward``."""
    check_gather_backward(grad, home, "home")
    check_rows(rows_a)
    check_rows(rows_b)
    return grad.new_empty(rows_a, grad.shape[1]), grad.new_empty(rows_b, grad.shape[1])


def setup_scatter(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    """Keep the permutation and how many rows came from either side."""
    a, b, home = inputs
    ctx.rows_a, ctx.rows_b = a.shape[0], b.shape[0]
    ctx.save_for_backward(home)


def backward_scatter(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    """Gradients of a and b."""
    (home,) = ctx.saved_tensors
    grad_a, grad_b = torch.ops.nmm.modality_scatter_backward(grad, home, ctx.rows_a, ctx.rows_b)
    return grad_a, grad_b, None


GATHER = Operator(
    name="modality_gather",
    schema="(Tensor x, Tensor index) -> Tensor",
    reference=reference.modality_gather,
    fake=fake_gather,
    setup_context=setup_gather,
    backward=backward_gather,
)
GATHER_BACKWARD = Operator(
    name="modality_gather_backward",
    schema="(Tensor grad, Tensor index, int rows) -> Tensor",
    reference=reference.modality_gather_backward,
    fake=fake_gather_backward,
)
SCATTER = Operator(
    name="modality_scatter",
    schema="(Tensor a, Tensor b, Tensor home) -> Tensor",
    reference=reference.modality_scatter,
    fake=fake_scatter,
    setup_context=setup_scatter,
    backward=backward_scatter,
)
SCATTER_BACKWARD = Operator(
    name="modality_scatter_backward",
    schema="(Tensor grad, Tensor home, int rows_a, int rows_b) -> (Tensor grad_a, Tensor grad_b)",
    reference=reference.modality_scatter_backward,
    fake=fake_scatter_backward,
)
