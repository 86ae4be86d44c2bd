"""``torch.ops.nmm.combine``: weighted sums of expert rows, back in token order. Shapes: T tokens, K choices, R rows.

combine(y, row_map, probabilities) -> out
  y [R, H]; row_map [T, K] int32 as for ``permute``; probabilities [T, K] fp32, or None for weights of 1
  out [T, H] in y's dtype, summed over k = 0..K-1 in fp32; dropped choices (-1) add nothing
combine_backward(grad, y, row_map, probabilities) -> (grad_y, grad_probabilities) reads each row once for both.
"""

from typing import Any

import torch

from nmm_kernels.checks import check_combine_backward, check_float, check_matrix, check_probabilities, check_row_map
from nmm_kernels.combine import reference
from nmm_kernels.operator import Operator


def fake_combine(y: torch.Tensor, row_map: torch.Tensor, probabilities: torch.Tensor | None) -> torch.Tensor:
    """Shape of ``combine``."""
    check_matrix("y", y)
    check_float("y", y)
    check_row_map(row_map)
    if probabilities is not None:
        check_probabilities(probabilities, row_map, y)
    return y.new_empty(row_map.shape[0], y.shape[1])


def fake_combine_backward(
    grad: torch.Tensor, y: torch.Tensor, row_map: torch.Tensor, probabilities: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shapes of ``combine_backward``."""
    check_combine_backward(grad, y, row_map, probabilities)
    return (
        torch.empty_like(y, memory_format=torch.contiguous_format),
        torch.empty_like(probabilities, memory_format=torch.contiguous_format),
    )


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    """Keep the rows only where the probabilities need them."""
    y, row_map, probabilities = inputs
    ctx.rows = y.shape[0]
    ctx.weighted = probabilities is not None
    ctx.save_for_backward(row_map, *([y, probabilities] if ctx.weighted else []))


def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor | None]:
    """Gradients of the rows and of the probabilities; without probabilities it is a plain permute."""
    if not ctx.weighted:
        (row_map,) = ctx.saved_tensors
        return torch.ops.nmm.permute(grad, row_map, ctx.rows), None, None
    row_map, y, probabilities = ctx.saved_tensors
    grad_y, grad_probabilities = torch.ops.nmm.combine_backward(grad, y, row_map, probabilities)
    return grad_y, None, grad_probabilities


COMBINE = Operator(
    name="combine",
    schema="(Tensor y, Tensor row_map, Tensor? probabilities) -> Tensor",
    reference=reference.combine,
    fake=fake_combine,
    setup_context=setup_context,
    backward=backward,
)
COMBINE_BACKWARD = Operator(
    name="combine_backward",
    schema="(Tensor grad, Tensor y, Tensor row_map, Tensor probabilities)"
    " -> (Tensor grad_y, Tensor grad_probabilities)",
    reference=reference.combine_backward,
    fake=fake_combine_backward,
)
