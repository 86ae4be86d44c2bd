"""Gradients are those of the formulas: numerically in fp64, and by autograd for the references."""

import pytest
import torch
from nmm_kernels.cases import Case, Inputs
from nmm_kernels.combine import reference as combine
from nmm_kernels.modality import reference as modality
from nmm_kernels.permute import reference as permute
from nmm_kernels.route import reference as route

CASE = Case(7, 5, 4, 3, torch.float64, align=4, load="dropped")
ops = torch.ops.nmm


@pytest.fixture
def inputs() -> Inputs:
    """Few numbers, in double precision, some choices dropped and some rows unused."""
    return CASE.inputs()


def leaf(x: torch.Tensor) -> torch.Tensor:
    """A copy that wants a gradient."""
    return x.detach().clone().requires_grad_()


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_route(inputs: Inputs, score: str, normalise: bool, biased: bool) -> None:
    bias = inputs.bias if biased else None
    logits = leaf(inputs.logits)
    for implementation in (ops.route, route.route):
        assert torch.autograd.gradcheck(
            lambda x, run=implementation: run(x, CASE.top_k, score, normalise, bias)[0], logits
        )
    probabilities, experts, _ = route.route(logits, CASE.top_k, score, normalise, bias)
    grad = torch.randn_like(probabilities)
    (expected,) = torch.autograd.grad(probabilities, logits, grad)
    torch.testing.assert_close(route.route_backward(grad, logits, experts, score, normalise), expected)


def test_route_with_scores_that_underflow_has_a_finite_gradient() -> None:
    logits = torch.tensor([[0.0, -200.0, -300.0]], requires_grad=True)
    bias = torch.tensor([-10.0, 1.0, 1.0])  # chooses the two whose softmax is 0 in fp32
    probabilities, experts, _ = ops.route(logits, 2, "softmax", True, bias)
    assert experts.tolist() == [[1, 2]] and probabilities.tolist() == [[0.0, 0.0]]
    probabilities.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_permute(inputs: Inputs) -> None:
    x = leaf(inputs.x)
    for implementation in (ops.permute, permute.permute):
        assert torch.autograd.gradcheck(lambda x, run=implementation: run(x, inputs.row_map, inputs.rows), x)
    out = permute.permute(x, inputs.row_map, inputs.rows)
    (expected,) = torch.autograd.grad(out, x, inputs.y)
    torch.testing.assert_close(permute.permute_backward(inputs.y, inputs.row_map), expected)


@pytest.mark.parametrize("weighted", [True, False])
def test_combine(inputs: Inputs, weighted: bool) -> None:
    y = leaf(inputs.y)
    probabilities = leaf(inputs.probabilities) if weighted else None
    for implementation in (ops.combine, combine.combine):
        assert torch.autograd.gradcheck(lambda y, p, run=implementation: run(y, inputs.row_map, p), (y, probabilities))


def test_combine_reference_backward_is_the_reference_differentiated(inputs: Inputs) -> None:
    y, probabilities = leaf(inputs.y), leaf(inputs.probabilities)
    out = combine.combine(y, inputs.row_map, probabilities)
    expected = torch.autograd.grad(out, (y, probabilities), inputs.x)
    ours = combine.combine_backward(inputs.x, y.detach(), inputs.row_map, probabilities.detach())
    torch.testing.assert_close(ours, expected)


def test_modality(inputs: Inputs) -> None:
    x, text = leaf(inputs.x), inputs.text
    a, b = leaf(inputs.x[:text]), leaf(inputs.x[text:])
    order = inputs.order[:text]
    for gather, scatter in (
        (ops.modality_gather, ops.modality_scatter),
        (modality.modality_gather, modality.modality_scatter),
    ):
        assert torch.autograd.gradcheck(lambda x, run=gather: run(x, order), x)
        assert torch.autograd.gradcheck(lambda a, b, run=scatter: run(a, b, inputs.home), (a, b))
        # A home that leaves rows out, as the stand-in row of an absent modality is.
        assert torch.autograd.gradcheck(lambda a, b, run=scatter: run(a, b, inputs.home[:3]), (a, b))


def test_permute_to_fp8_says_that_it_has_no_gradient() -> None:
    case = Case(4, 130, 2, 1, torch.float32)
    inputs = case.inputs()
    _, scales = ops.permute_to_fp8(leaf(inputs.x), inputs.row_map, inputs.rows)
    with pytest.raises(RuntimeError, match="permute_to_fp8 has no gradient"):
        scales.sum().backward()
