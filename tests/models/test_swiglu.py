"""SwiGLU against silu(gate) * up written out: forward, backward, finite differences, bf16."""

import pytest
import torch
from torch.nn.functional import silu

from megatron_nmm.models.swiglu import SwiGLU

SHAPES = [(5, 1, 32), (5, 6), (0, 1, 16), (2, 3, 4, 8)]


def written_out(gate_up: torch.Tensor) -> torch.Tensor:
    """The definition."""
    gate, up = gate_up.chunk(2, -1)
    return silu(gate) * up


def both(x: torch.Tensor, grad: torch.Tensor, function: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and input gradient."""
    leaf = x.detach().requires_grad_()
    out = function(leaf)  # type: ignore[operator]
    return out.detach(), torch.autograd.grad(out, leaf, grad)[0]


def case(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Pre-activations that reach both tails of the gate, and a gradient."""
    generator = torch.Generator().manual_seed(0)
    x = 4 * torch.randn(shape, generator=generator)
    return x.to(dtype), torch.randn(*shape[:-1], shape[-1] // 2, generator=generator).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_fp32_equals_the_definition(shape: tuple[int, ...]) -> None:
    x, grad = case(shape, torch.float32)
    for mine, expected in zip(both(x, grad, SwiGLU(None)), both(x, grad, written_out), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-6)


def test_bf16_is_as_exact_as_autograd() -> None:
    x, grad = case((64, 1, 128), torch.bfloat16)
    exact = both(x.double(), grad.double(), written_out)
    torchs = both(x, grad, written_out)
    for mine, his, truth in zip(both(x, grad, SwiGLU(None)), torchs, exact, strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine - truth).norm() <= 1.1 * (his - truth).norm()


def test_the_gradient_is_that_of_finite_differences() -> None:
    x = torch.randn(3, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(SwiGLU(None), (x,))


def test_strided_input_and_gradient() -> None:
    x, grad = case((6, 3, 16), torch.float32)
    x, grad = x.transpose(0, 1), grad.transpose(0, 1)
    for mine, expected in zip(both(x, grad, SwiGLU(None)), both(x, grad, written_out), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-6)


def test_extreme_gates_stay_finite() -> None:
    x = torch.tensor([[-1e4, 1e4, 2.0, 2.0]])
    out, grad = both(x, torch.ones(1, 2), SwiGLU(None))
    assert out.tolist() == [[0.0, 2e4]]
    assert grad.tolist() == [[0.0, 2.0, 0.0, 1e4]]
