"""FewPassRMSNorm against torch's own: forward and both gradients, in fp32 and bf16, contiguous and strided."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import rms_norm

from megatron_nmm.models.norm import FewPassRMSNorm, RMSNorm

EPSILON = 1e-5
Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def hidden(tokens: int = 37) -> torch.Tensor:
    """[T, 1, H] as the decoder's residual, with rows of very different size."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(tokens, 1, 96, generator=generator) * torch.logspace(-3, 3, tokens)[:, None, None]


def queries() -> torch.Tensor:
    """[T, heads, D] cut out of a fused [T, heads, 3 D] projection, as megatron-core cuts it."""
    return torch.randn(37, 4, 48, generator=torch.Generator().manual_seed(1)).split(16, dim=-1)[1]


def grouped_keys() -> torch.Tensor:
    """[T, groups, D] cut out of a [T, groups, (queries per group + 2) D] projection."""
    return torch.randn(37, 2, 64, generator=torch.Generator().manual_seed(2)).split([32, 16, 16], dim=-1)[1]


def transposed() -> torch.Tensor:
    """[T, heads, D] that lies in memory as [heads, T, D]."""
    return torch.randn(4, 37, 16, generator=torch.Generator().manual_seed(3)).transpose(0, 1)


INPUTS = {
    "residual": hidden,
    "no tokens": lambda: hidden(0),
    "one vector": lambda: hidden(3)[0, 0],
    "queries of a split": queries,
    "keys of a split": grouped_keys,
    "transposed": transposed,
}


def norm(width: int, dtype: torch.dtype = torch.float32, sequence: bool = False) -> FewPassRMSNorm:
    """A norm with gains around one."""
    layer = FewPassRMSNorm(SimpleNamespace(params_dtype=dtype, sequence_parallel=sequence), width, EPSILON)
    with torch.no_grad():
        layer.weight += 0.2 * torch.randn(width, generator=torch.Generator().manual_seed(4)).to(dtype)
    return layer


def direction(x: torch.Tensor) -> torch.Tensor:
    """The gradient that arrives; where x is strided, so is this one."""
    return torch.randn(*x.shape[:-1], 2 * x.shape[-1], generator=torch.Generator().manual_seed(5)).chunk(2, -1)[0]


def ours(layer: FewPassRMSNorm, x: torch.Tensor, grad: torch.Tensor) -> Triple:
    """Output, dx and dw of the layer."""
    leaf = x.detach().requires_grad_()
    out = layer(leaf)
    return (out.detach(), *torch.autograd.grad(out, (leaf, layer.weight), grad))


def theirs(layer: FewPassRMSNorm, x: torch.Tensor, grad: torch.Tensor, dtype: torch.dtype) -> Triple:
    """The same from torch's rms_norm in ``dtype``."""
    leaf, weight = (t.detach().to(dtype).requires_grad_() for t in (x, layer.weight))
    out = rms_norm(leaf, (x.shape[-1],), weight, EPSILON)
    return (out.detach(), *torch.autograd.grad(out, (leaf, weight), grad.to(dtype)))


@pytest.mark.parametrize("name", INPUTS)
def test_fp32_equals_torch(name: str) -> None:
    x = INPUTS[name]()
    layer, grad = norm(x.shape[-1]), direction(x)
    for mine, torchs in zip(ours(layer, x, grad), theirs(layer, x, grad, torch.float32), strict=True):
        torch.testing.assert_close(mine, torchs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", [n for n in INPUTS if n != "no tokens"])
def test_bf16_is_as_exact_as_torch(name: str) -> None:
    x = INPUTS[name]().bfloat16()
    layer, grad = norm(x.shape[-1], torch.bfloat16), direction(x).bfloat16()
    exact = theirs(layer, x, grad, torch.float64)
    torchs = theirs(layer, x, grad, torch.bfloat16)
    for mine, his, truth in zip(ours(layer, x, grad), torchs, exact, strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine - truth).norm() <= 1.5 * (his - truth).norm()


def test_the_input_and_the_arriving_gradient_are_left_alone() -> None:
    x = queries()
    layer, grad = norm(16), direction(x)
    kept_x, kept_grad = x.clone(), grad.clone()
    ours(layer, x, grad)
    assert torch.equal(x, kept_x) and torch.equal(grad, kept_grad)


@pytest.mark.parametrize("sequence", [True, False])
@pytest.mark.parametrize("kind", [RMSNorm, FewPassRMSNorm])
def test_the_weight_carries_the_mark_of_sequence_parallelism(kind: type[RMSNorm], sequence: bool) -> None:
    layer = kind(SimpleNamespace(params_dtype=torch.float32, sequence_parallel=sequence), 8)
    assert layer.weight.sequence_parallel is sequence  # type: ignore[attr-defined]


def test_both_norms_agree() -> None:
    x = hidden()
    few = norm(96)
    plain = RMSNorm(SimpleNamespace(params_dtype=torch.float32, sequence_parallel=False), 96, EPSILON)
    plain.load_state_dict(few.state_dict())
    torch.testing.assert_close(few(x), plain(x), rtol=2e-5, atol=2e-6)
