"""Rotary embedding against complex numbers, finite differences, megatron-core's own, and its defining property."""

import pytest
import torch

from megatron_nmm.device.cpu import CpuDevice
from megatron_nmm.models.rope import Rotation, rotate

CPU = torch.device("cpu")
BASE = 10_000.0


def heads(tokens: int, width: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    """[T, 3, D] random queries."""
    return torch.randn(tokens, 3, width, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def as_complex_numbers(x_THD: torch.Tensor, positions_T: torch.Tensor, base: float = BASE) -> torch.Tensor:
    """RoFormer's definition: pair (i, i + D/2) is a complex number, multiplied by exp(j position base^(-2 i / D))."""
    width = x_THD.shape[-1]
    first, second = x_THD.double().chunk(2, -1)
    frequency = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    turn = torch.polar(torch.ones(()).double(), positions_T.double()[:, None, None] * frequency)
    turned = torch.complex(first, second) * turn
    return torch.cat([turned.real, turned.imag], -1)


@pytest.mark.parametrize("base", [BASE, 500.0])
@pytest.mark.parametrize("width", [2, 16, 80])
def test_equals_complex_multiplication(width: int, base: float) -> None:
    positions = torch.tensor([0, 1, 2, 0, 1, 511, 7])
    x = heads(len(positions), width, torch.float32)
    out = rotate(x, Rotation.at(positions, width, base, CPU, torch.float32))
    torch.testing.assert_close(out, as_complex_numbers(x, positions, base).float(), rtol=1e-4, atol=1e-4)


def test_position_zero_changes_nothing_and_lengths_are_kept() -> None:
    x = heads(9, 16, torch.float32)
    out = rotate(x, Rotation.at(torch.arange(9), 16, BASE, CPU, torch.float32))
    assert torch.equal(out[0], x[0])
    torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1))


def test_the_gradient_is_that_of_finite_differences() -> None:
    rotation = Rotation.at(torch.tensor([0, 3, 100, 1]), 8, BASE, CPU, torch.float64)
    assert torch.autograd.gradcheck(lambda x: rotate(x, rotation), (heads(4, 8).requires_grad_(),))


def test_scores_depend_on_the_distance_alone() -> None:
    query, key = heads(6, 32, seed=1), heads(6, 32, seed=2)
    positions = torch.arange(6)

    def scores(shift: int) -> torch.Tensor:
        rotation = Rotation.at(positions + shift, 32, BASE, CPU, torch.float64)
        return torch.einsum("ihd,jhd->hij", rotate(query, rotation), rotate(key, rotation))

    torch.testing.assert_close(scores(0), scores(200), rtol=1e-4, atol=1e-4)
    stretched = Rotation.at(2 * positions, 32, BASE, CPU, torch.float64)
    other = torch.einsum("ihd,jhd->hij", rotate(query, stretched), rotate(key, stretched))
    assert (other - scores(0)).abs().max() > 0.1, "other distances must give other scores"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_megatron_cores_own(dtype: torch.dtype, cpu: CpuDevice) -> None:
    from megatron.core.models.common.embeddings.rope_utils import _apply_rotary_pos_emb_bshd

    positions = torch.arange(64)
    x = heads(64, 32, dtype)
    frequency = BASE ** (-torch.arange(0, 32, 2, dtype=torch.float32) / 32)
    angle = positions[:, None].float() * frequency
    angles_S11D = torch.cat([angle, angle], -1)[:, None, None]
    expected = _apply_rotary_pos_emb_bshd(x[:, None], angles_S11D, rotary_interleaved=False)[:, 0]
    out = rotate(x, Rotation.at(positions, 32, BASE, CPU, dtype))
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2  # bf16: one rounding of an intermediate product
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)


def test_strided_heads_and_gradients() -> None:
    fused = torch.randn(5, 3, 48, generator=torch.Generator().manual_seed(3))
    positions = torch.tensor([4, 0, 9, 2, 2])
    rotation = Rotation.at(positions, 16, BASE, CPU, torch.float32)
    x = fused.split(16, -1)[1].detach().requires_grad_()
    grad = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(4)).transpose(0, 1)
    out = rotate(x, rotation)
    torch.testing.assert_close(out, as_complex_numbers(x, positions).float(), rtol=1e-4, atol=1e-4)
    (back,) = torch.autograd.grad(out, x, grad)
    torch.testing.assert_close(back, as_complex_numbers(grad, -positions).float(), rtol=1e-4, atol=1e-4)
