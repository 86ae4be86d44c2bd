"""All ways of a large product give the same bits; which one is taken depends on the clock alone."""

from collections.abc import Iterator

import pytest
import torch

from megatron_nmm.device import products
from megatron_nmm.device.products import Product, Products, by_columns, by_rows, fastest

ROWS, DEPTH, COLUMNS = 1024, 1024, 512


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


def operands(rows: int = ROWS, dtype: torch.dtype = torch.bfloat16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(  # type: ignore[return-value]
        torch.randn(shape, generator=generator).to(dtype) for shape in ((rows, DEPTH), (DEPTH, COLUMNS))
    )


def exact_operands() -> tuple[torch.Tensor, torch.Tensor]:
    """Small integers: every order of summation gives the same bits."""
    rows, weight = operands()
    return rows.sign(), weight.sign()


@pytest.mark.parametrize("way", [by_rows, by_columns])
def test_a_product_in_blocks_is_the_product(way: Product) -> None:
    rows, weight = operands(dtype=torch.float64)
    torch.testing.assert_close(way(rows, weight), rows @ weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_result_has_torchs_bits(dtype: torch.dtype, transposed: bool) -> None:
    rows, weight = operands(dtype=dtype)
    weight = weight.t().contiguous().t() if transposed else weight
    seen = Products()
    expected = torch.matmul(rows.view(ROWS, 1, DEPTH), weight)
    for meeting in range(1, products.MEETINGS + 2):
        assert torch.equal(seen.matmul(rows.view(ROWS, 1, DEPTH), weight), expected)
        assert len(seen.ways) == (meeting >= products.MEETINGS), "a shape met once or twice is not worth a trial"


@pytest.mark.parametrize(
    ("rows_s", "columns_s", "way"),
    [(0.5, 0.7, by_rows), (0.7, 0.5, by_columns), (0.95, 0.95, torch.mm), (0.95, 0.8, by_columns)],
)
def test_the_way_that_is_clearly_fastest_is_chosen(
    rows_s: float, columns_s: float, way: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {torch.mm: 1.0, by_rows: rows_s, by_columns: columns_s}
    monkeypatch.setattr(products, "best_seconds", lambda tried, *_: taken[tried])
    assert fastest(*exact_operands()) is way


def test_a_faster_way_to_other_bits_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "best_seconds", lambda tried, *_: 1.0 if tried is torch.mm else 0.1)
    for name in ("by_rows", "by_columns"):
        monkeypatch.setattr(products, name, lambda rows, weight: torch.mm(rows, weight) + 1)
    assert fastest(*operands()) is torch.mm


def test_small_odd_or_differentiated_products_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "MEETINGS", 1)
    seen = Products()
    rows, weight = operands()
    assert torch.equal(seen.matmul(rows[:64], weight), rows[:64] @ weight)
    assert torch.equal(seen.matmul(rows[:1023], weight), rows[:1023] @ weight)
    with torch.enable_grad():
        leaf = weight.clone().requires_grad_()
        seen.matmul(rows, leaf).sum().backward()
    assert leaf.grad is not None
    torch.set_num_threads(1)
    assert torch.equal(seen.matmul(rows, weight), rows @ weight)
    assert not seen.ways
