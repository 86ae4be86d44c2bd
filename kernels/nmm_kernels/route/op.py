"""``torch.ops.nmm.route``: which experts a token goes to, and with what probability.

Shapes: T tokens, E experts, K choices.
route(logits, top_k, score, normalise, bias) -> (probabilities, experts, counts)
  logits [T, E] of any float dtype, the arithmetic in fp32; score "softmax" over all experts, or "sigmoid"
  bias [E] fp32 or None, added to the score for the choice and left out of the probability
  probabilities [T, K] fp32: scores of the chosen experts, divided by their sum when ``normalise``
  experts [T, K] int32, best first, the lower index among equals; counts [E] int32: how many choices fell on each
Differentiable in the logits through the probabilities.
"""

from typing import Any

import torch

from nmm_kernels.checks import wide
from nmm_kernels.operator import Operator
from nmm_kernels.route import reference


def fake_route(
    logits: torch.Tensor, top_k: int, score: str = "softmax", normalise: bool = False, bias: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Shapes of ``route``."""
    reference.check_route(logits, top_k, score, bias)
    tokens, experts = logits.shape
    return (
        logits.new_empty(tokens, top_k, dtype=wide(logits.dtype)),
        logits.new_empty(tokens, top_k, dtype=torch.int32),
        logits.new_empty(experts, dtype=torch.int32),
    )


def fake_route_backward(
    grad: torch.Tensor, logits: torch.Tensor, experts: torch.Tensor, score: str, normalise: bool
) -> torch.Tensor:
    """Shape of ``route_backward``."""
    reference.check_route_backward(grad, logits, experts, score)
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    """Keep the logits and the choice: scores are cheaper to work out again than to store."""
    logits, _, ctx.score, ctx.normalise, _ = inputs
    ctx.save_for_backward(logits, output[1])


def backward(ctx: Any, grad: torch.Tensor, *unused: Any) -> tuple[torch.Tensor | None, ...]:
    """Gradient of the logits; the bias steers the choice only, so it has none."""
    logits, experts = ctx.saved_tensors
    return torch.ops.nmm.route_backward(grad, logits, experts, ctx.score, ctx.normalise), None, None, None, None


ROUTE = Operator(
    name="route",
    schema='(Tensor logits, int top_k, str score="softmax", bool normalise=False, Tensor? bias=None)'
    " -> (Tensor probabilities, Tensor experts, Tensor counts)",
    reference=reference.route,
    fake=fake_route,
    setup_context=setup_context,
    backward=backward,
)
ROUTE_BACKWARD = Operator(
    name="route_backward",
    schema="(Tensor grad, Tensor logits, Tensor experts, str score, bool normalise) -> Tensor",
    reference=reference.route_backward,
    fake=fake_route_backward,
)
