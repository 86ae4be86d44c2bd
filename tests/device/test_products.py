"""Products in halves are the same products, and only those that gain are cut."""

from collections.abc import Iterator

import pytest
import torch

from megatron_nmm.device import products
from megatron_nmm.device.products import in_halves, matmul, product

BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def two_threads_and_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


def operands(rows: int = 512, depth: int = 2048, columns: int = 512) -> tuple[torch.Tensor, torch.Tensor]:
    """Signs: every order of summation gives the same bits."""
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(shape, generator=generator).sign().to(BF16) for shape in ((rows, depth), (depth, columns)))
    return a, b


@pytest.mark.parametrize(
    ("shape", "halves"),
    [
        ((1024, 3072, 512), True),
        ((512, 3072, 512), True),
        ((1024, 1536, 512), True),
        ((512, 1536, 512), False),
        ((1024, 512, 512), False),
        ((2048, 3072, 512), False),
        ((256, 3072, 512), False),
        ((1024, 3072, 513), False),
    ],
)
def test_which_products_are_cut(shape: tuple[int, int, int], halves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_halves(*shape, BF16) == halves
    assert not in_halves(*shape, torch.float32)
    torch.set_num_threads(1)
    assert not in_halves(*shape, BF16)
    torch.set_num_threads(2)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not in_halves(*shape, BF16)


@pytest.mark.parametrize("columns", [512, 511, 1])
@pytest.mark.parametrize("transposed", [False, True])
def test_halves_make_the_whole(columns: int, transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, weight = operands(columns=columns)
    weight = weight.t().contiguous().t() if transposed else weight
    expected = (rows.double() @ weight.double()).to(BF16)
    cut = []
    monkeypatch.setattr(products, "in_halves", lambda *shape: cut.append(shape) or columns > 1)
    assert torch.equal(product(rows, weight), expected)
    out = torch.full((2, len(rows), columns), 7.0).to(BF16)
    assert product(rows, weight, out[1]).data_ptr() == out[1].data_ptr()
    assert torch.equal(out[1], expected) and bool((out[0] == 7).all())
    assert torch.equal(matmul(rows[:, None], weight), expected[:, None])
    assert cut == [(512, 2048, columns, BF16)] * 3


def test_a_product_that_is_differentiated_is_torchs() -> None:
    rows, weight = operands()
    with torch.enable_grad():
        leaf = weight.clone().requires_grad_()
        matmul(rows, leaf).sum().backward()
    assert leaf.grad is not None
