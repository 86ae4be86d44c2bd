"""permute_to_fp8 rounds to the nearest 8-bit float under the scale of its group, and shows what is not finite."""

from collections.abc import Callable, Iterator

import pytest
import torch
from nmm_kernels.permute_to_fp8 import reference

Permute = Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]
BOTH = pytest.mark.parametrize(
    "permute", [torch.ops.nmm.permute_to_fp8, reference.permute_to_fp8], ids=["operator", "reference"]
)


def straight(rows: int) -> torch.Tensor:
    """Row t to row t."""
    return torch.arange(rows, dtype=torch.int32)[:, None]


def restored(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """values * scales in fp32."""
    return values.float() * scales.repeat_interleave(128, 1)[:, : values.shape[1]]


@BOTH
def test_known_values(permute: Permute) -> None:
    x = torch.zeros(2, 200)
    x[0, :5] = torch.tensor([448.0, -224.0, 17.0, 0.001, -0.0])
    x[1, 130] = 1.0
    values, scales = permute(x, torch.tensor([[2], [0]], dtype=torch.int32), 4)
    torch.testing.assert_close(scales, torch.tensor([[1, 1 / 448], [1, 1], [1, 1], [1, 1]]))
    # 17 stands between 16 and 18 and goes to the even one; the smallest step of all is 2^-9.
    assert values[2, :5].float().tolist() == [448, -224, 16, 2.0**-9, 0]
    assert values[0, 130].float().item() == 448 and not values[1].float().any() and not values[3].float().any()


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_value_is_the_nearest(permute: Permute, dtype: torch.dtype) -> None:
    x = (torch.randn(64, 300, generator=torch.Generator().manual_seed(0)) * 0.1).to(dtype)
    values, scales = permute(x, straight(64), 64)
    finite = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    finite = finite[finite.isfinite()].unique()
    wanted = x.float() / scales.repeat_interleave(128, 1)[:, :300]
    nearest = (wanted[..., None] - finite).abs().amin(-1)
    assert torch.all((wanted - values.float()).abs() <= nearest + 448 * 2**-22)
    # 3 bits of mantissa: at most one part in 16 of a value, or half the smallest step of a group.
    error = (restored(values, scales) - x.float()).abs()
    smallest_step = scales.repeat_interleave(128, 1)[:, :300] * 2.0**-10
    assert torch.all(error <= torch.maximum(x.float().abs() / 16, smallest_step) * 1.0001)


@BOTH
def test_all_256_codes_come_back_as_they_are(permute: Permute) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    x = codes.view(torch.float8_e4m3fn).float()[(codes & 0x7F) != 0x7F]  # 254 numbers; 448 is in either group
    x = torch.stack([x[:127], x[127:]])
    values, scales = permute(x, straight(2), 2)
    assert scales.tolist() == [[1.0], [1.0]]
    assert torch.equal(values.float(), x)


@pytest.fixture
def subnormals() -> Iterator[None]:
    """Subnormal numbers count, as they do unless a process flushes them to zero; training on a CPU does."""
    flushed = bool((torch.tensor([1e-44]) * 1 == 0).all())
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(flushed)


@BOTH
@pytest.mark.usefixtures("subnormals")
def test_the_smallest_and_the_largest_groups(permute: Permute) -> None:
    x = torch.zeros(3, 128)
    x[0, 0], x[1, 0], x[2, 0] = 1e-44, 3.4e38, 2.0**-120
    values, scales = permute(x, straight(3), 3)
    assert scales[:, 0].tolist() == pytest.approx([2.0**-126, 3.4e38 / 448, 2.0**-126])
    assert values.float().isfinite().all()
    torch.testing.assert_close(restored(values, scales)[1:], x[1:], rtol=0.07, atol=0)


@BOTH
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_group_that_is_not_finite_comes_back_as_nan(permute: Permute, bad: float) -> None:
    x = torch.ones(1, 256)
    x[0, 130] = bad
    values, scales = permute(x, straight(1), 1)
    back = restored(values, scales)
    assert torch.equal(back[0, :128], x[0, :128])
    assert back[0, 128:].isnan().all()
