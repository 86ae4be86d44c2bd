"""permute, combine and the modality operators move rows as loops do, and refuse to write outside their results."""

from typing import Any

import nmm_kernels
import pytest
import torch
from nmm_kernels.cases import Case

from tests.kernels.compare import NO_LIBRARY, REFERENCES, has_library

IMPLEMENTATIONS = ("operator", "reference")
BOTH = pytest.mark.parametrize("which", IMPLEMENTATIONS)


def call(which: str, operator: str, *arguments: Any) -> Any:
    """Run one implementation of an operator."""
    return getattr(torch.ops.nmm, operator)(*arguments) if which == "operator" else REFERENCES[operator](*arguments)


ROW_MAP = torch.tensor([[3, 0], [-1, 4], [1, -1]], dtype=torch.int32)
X = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [100.0, 200.0, 300.0]])


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool], ids=str)
def test_permute_copies_rows_and_zeroes_the_rest(which: str, dtype: torch.dtype) -> None:
    x = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]]).to(dtype)
    out = call(which, "permute", x, ROW_MAP, 6)
    zero = torch.zeros(3, dtype=dtype)
    assert torch.equal(out, torch.stack([x[0], x[2], zero, x[0], x[1], zero]))


@BOTH
def test_combine_sums_the_kept_choices_with_their_weights(which: str) -> None:
    y = torch.arange(15.0).view(5, 3)
    y[2] = torch.nan  # nobody maps to it
    probabilities = torch.tensor(
        [[0.5, 2.0], [torch.nan, 1.0], [3.0, torch.inf]]
    )  # those of dropped choices do not count
    out = call(which, "combine", y, ROW_MAP, probabilities)
    assert torch.equal(out, torch.stack([0.5 * y[3] + 2 * y[0], y[4], 3 * y[1]]))
    assert torch.equal(call(which, "combine", y, ROW_MAP, None), torch.stack([y[3] + y[0], y[4], y[1]]))
    assert torch.equal(call(which, "permute_backward", y, ROW_MAP), torch.stack([y[3] + y[0], y[4], y[1]]))


@BOTH
def test_combine_backward_gives_rows_and_probabilities(which: str) -> None:
    y = torch.arange(15.0).view(5, 3)
    probabilities = torch.tensor([[0.5, 2.0], [9.0, 1.0], [3.0, 9.0]])
    grad_y, grad_probabilities = call(which, "combine_backward", X, y, ROW_MAP, probabilities)
    assert torch.equal(grad_y, torch.stack([2 * X[0], 3 * X[2], torch.zeros(3), 0.5 * X[0], X[1]]))
    expected = [[X[0] @ y[3], X[0] @ y[0]], [0, X[1] @ y[4]], [X[2] @ y[1], 0]]
    assert torch.equal(grad_probabilities, torch.tensor(expected))


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sums_are_kept_in_fp32_and_rounded_once(which: str, dtype: torch.dtype) -> None:
    # Each addition in half precision would round 1 + 2^-9 back to 1; the sum of all eight is 1 + 2^-6.
    y = torch.tensor([[1.0]] + [[2.0**-9]] * 8).to(dtype)
    row_map = torch.arange(9, dtype=torch.int32)[None]
    assert call(which, "combine", y, row_map, None).item() == 1 + 2.0**-6


@pytest.mark.skipif(not has_library(), reason=NO_LIBRARY)
def test_rounding_to_half_precision_is_to_nearest_even_with_nan_and_infinity() -> None:
    values = torch.tensor([1.00390625, 1.01171875, 65504.0, 65520.0, 3.4e38, -1e-7, float("inf"), float("nan")] * 5)
    weights = torch.ones(1, 1)
    for dtype in (torch.bfloat16, torch.float16):
        y = values.to(dtype)[None]
        product = (y.float() * 1.00390625).to(dtype)
        out = torch.ops.nmm.combine(y, torch.zeros(1, 1, dtype=torch.int32), weights * 1.00390625)
        assert torch.equal(out.nan_to_num(nan=7), product.nan_to_num(nan=7))
        assert torch.equal(out.isnan(), product.isnan())


@BOTH
def test_a_round_trip_by_plan_gives_every_token_back(which: str) -> None:
    case = Case(200, 40, 8, 2, torch.float32, align=16)
    inputs = case.inputs()
    experts = call(which, "route", inputs.logits, 2)[1]
    row_map, counts, offsets = call(which, "dispatch_plan", experts, 8, 16)
    rows = call(which, "permute", inputs.x, row_map, nmm_kernels.planned_rows(400, 8, 16))
    for expert in range(8):
        segment = rows[offsets[expert] : offsets[expert] + counts[expert]]
        assert torch.equal(segment, inputs.x[(experts == expert).any(1)])
    torch.testing.assert_close(call(which, "combine", rows, row_map, torch.full((200, 2), 0.5)), inputs.x)


@BOTH
def test_modality_parts_and_joins_rows(which: str) -> None:
    x = torch.arange(10.0).view(5, 2)
    text, visual = torch.tensor([1, 4]), torch.tensor([0, 2, 3])
    home = torch.tensor([2, 0, 3, 4, 1])
    a, b = call(which, "modality_gather", x, text), call(which, "modality_gather", x, visual)
    assert torch.equal(a, x[[1, 4]]) and torch.equal(b, x[[0, 2, 3]])
    assert torch.equal(call(which, "modality_scatter", a, b, home), x)
    back = call(which, "modality_gather_backward", a, text, 5)
    assert torch.equal(back, torch.stack([0 * x[0], x[1], 0 * x[2], 0 * x[3], x[4]]))
    grad_a, grad_b = call(which, "modality_scatter_backward", x, home, 2, 3)
    assert torch.equal(grad_a, a) and torch.equal(grad_b, b)


@BOTH
def test_modality_with_one_side_absent(which: str) -> None:
    x = torch.arange(6.0).view(3, 2)
    none, home = torch.empty(0, dtype=torch.int64), torch.tensor([2, 0, 1])
    assert call(which, "modality_gather", x, none).shape == (0, 2)
    assert torch.equal(call(which, "modality_scatter", x[:0], x, home), x[home])
    assert torch.equal(call(which, "modality_scatter", x, x[:0], home), x[home])


INT = torch.int32
REFUSED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("permute", (X[0], ROW_MAP, 6), "x has 1 dimensions; give it two"),
    ("permute", (X[:2], ROW_MAP, 6), "row_map has 3 rows for 2 tokens; make it by dispatch_plan"),
    ("permute", (X, ROW_MAP.long(), 6), "row_map is torch.int64; convert it to torch.int32"),
    ("permute", (X, ROW_MAP, -1), "rows is -1; row numbers are int32, so give 0 to 2147483647"),
    ("permute", (X, ROW_MAP, 2**31), "rows is 2147483648; row numbers are int32"),
    ("permute_to_fp8", (X.double(), ROW_MAP, 6), "x is torch.float64; convert it to float32, bfloat16 or float16"),
    ("combine", (X.int(), ROW_MAP, None), "y is torch.int32; convert it to float32"),
    ("combine", (X, ROW_MAP, torch.ones(3, 1)), r"probabilities \[3, 1\] and row_map \[3, 2\] differ"),
    ("combine", (X, ROW_MAP, torch.ones(3, 2).half()), "probabilities is torch.float16; convert it to torch.float32"),
    ("combine_backward", (X, X[:, :2], ROW_MAP, torch.ones(3, 2)), "grad is 3 wide and y 2; give both the same width"),
    (
        "combine_backward",
        (X.half(), X, ROW_MAP, torch.ones(3, 2)),
        "grad is torch.float16; convert it to torch.float32",
    ),
    ("modality_gather", (X, ROW_MAP.long()), "index has 2 dimensions; give it one"),
    ("modality_gather", (X, torch.zeros(2, dtype=INT)), "index is torch.int32; convert it to torch.int64"),
    (
        "modality_gather_backward",
        (X, torch.zeros(2).long(), 9),
        "grad has 3 rows and index 2; give a row for each place",
    ),
    ("modality_scatter", (X, X[:, :2], torch.zeros(2).long()), "a is 3 wide and b 2; give both the same width"),
    ("modality_scatter", (X, X.half(), torch.zeros(2).long()), "b is torch.float16; convert it to torch.float32"),
)


@BOTH
@pytest.mark.parametrize(("operator", "arguments", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_refuses(which: str, operator: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call(which, operator, *arguments)


FAR_INDEX = torch.tensor([0, 7])
OUTSIDE: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("permute", (X, ROW_MAP, 4), "row_map holds row 4, but there are 4 rows; make room for planned_rows"),
    ("permute_to_fp8", (X, ROW_MAP, 4), "row_map holds row 4, but there are 4 rows"),
    ("combine", (X, ROW_MAP, None), "row_map holds row 4, but there are 3 rows"),
    ("permute_backward", (X, ROW_MAP), "row_map holds row 4, but there are 3 rows"),
    ("combine_backward", (X, X, ROW_MAP, torch.ones(3, 2)), "row_map holds row 4, but there are 3 rows"),
    ("modality_gather", (X, FAR_INDEX), "index holds 7, but there are 3 rows; give places from 0 to 2"),
    ("modality_gather", (X, -FAR_INDEX), "index holds -7, but there are 3 rows"),
    ("modality_gather_backward", (X[:2], FAR_INDEX, 3), "index holds 7, but there are 3 rows"),
    ("modality_scatter", (X, X, FAR_INDEX), "home holds 7, but there are 6 rows"),
    ("modality_scatter_backward", (X[:2], FAR_INDEX, 2, 3), "home holds 7, but there are 5 rows"),
)


@pytest.mark.skipif(not has_library(), reason="no C++ compiler here: the reference refuses with PyTorch's own words")
@pytest.mark.parametrize(("operator", "arguments", "message"), OUTSIDE, ids=[operator for operator, *_ in OUTSIDE])
def test_refuses_rows_outside_the_result(operator: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.nmm, operator)(*arguments)
