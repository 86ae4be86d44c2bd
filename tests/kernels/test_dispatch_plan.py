"""dispatch_plan numbers rows as a loop over experts, tokens and choices does, and never exceeds planned_rows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nmm_kernels import planned_rows
from nmm_kernels.dispatch_plan import reference

Plan = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
PLANS: tuple[Plan, ...] = (torch.ops.nmm.dispatch_plan, reference.dispatch_plan)
BOTH = pytest.mark.parametrize("plan", PLANS, ids=["operator", "reference"])


def by_hand(experts: list[list[int]], num_experts: int, align: int) -> tuple[list[list[int]], list[int], list[int]]:
    """Row map, counts and offsets by the definition."""
    row_map = [[-1] * len(row) for row in experts]
    counts, offsets, row = [], [0], 0
    for expert in range(num_experts):
        for t, choices in enumerate(experts):
            for k, chosen in enumerate(choices):
                if chosen == expert:
                    row_map[t][k] = row
                    row += 1
        counts.append(row - offsets[-1])
        row = -(-row // align) * align
        offsets.append(row)
    return row_map, counts, offsets


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_is_what_a_loop_computes(data: st.DataObject) -> None:
    tokens, top_k, num_experts = data.draw(st.tuples(st.integers(0, 9), st.integers(1, 4), st.integers(1, 6)))
    align = data.draw(st.sampled_from([1, 2, 3, 16, 128]))
    row = st.lists(st.integers(-2, num_experts + 1), min_size=top_k, max_size=top_k)
    experts = data.draw(st.lists(row, min_size=tokens, max_size=tokens))
    expected = by_hand(experts, num_experts, align)
    for plan in PLANS:
        results = plan(torch.tensor(experts, dtype=torch.int32).view(tokens, top_k), num_experts, align)
        assert tuple(result.tolist() for result in results) == expected
        assert [result.dtype for result in results] == [torch.int32, torch.int32, torch.int64]
    assert expected[2][-1] <= planned_rows(tokens * top_k, num_experts, align)


@BOTH
def test_known_values(plan: Plan) -> None:
    experts = torch.tensor([[2, 0], [0, -1], [2, 2]], dtype=torch.int32)
    row_map, counts, offsets = plan(experts, 4, 4)
    assert row_map.tolist() == [[4, 0], [1, -1], [5, 6]]
    assert counts.tolist() == [2, 0, 3, 0] and offsets.tolist() == [0, 4, 4, 8, 8]


def test_parts_of_several_threads_join_in_order() -> None:
    experts = torch.randint(-1, 7, (9000, 3), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        ours = torch.ops.nmm.dispatch_plan(experts, 7, 16)
    finally:
        torch.set_num_threads(before)
    for result, expected in zip(ours, reference.dispatch_plan(experts, 7, 16), strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize(
    ("choices", "num_experts", "align", "rows"),
    [(0, 8, 128, 0), (8192, 8, 1, 8192), (5, 8, 16, 80), (8192, 8, 16, 8304), (3, 2, 4, 8), (1, 1, 128, 128)],
)
def test_planned_rows_is_reached_and_never_passed(choices: int, num_experts: int, align: int, rows: int) -> None:
    assert planned_rows(choices, num_experts, align) == rows
    # The worst load: one row more than a whole segment for as many experts as there are choices for.
    busy = min(choices, num_experts)
    experts = list(range(busy)) + [0] * (choices - busy)
    offsets = torch.ops.nmm.dispatch_plan(torch.tensor([experts], dtype=torch.int32).view(-1, 1), num_experts, align)[2]
    assert offsets[-1].item() <= rows
    assert offsets[-1].item() > rows - align * max(busy, 1)


def test_planned_rows_refuses_what_is_no_count() -> None:
    for arguments in ((-1, 8, 1), (8, -1, 1), (8, 8, 0)):
        with pytest.raises(ValueError, match="give counts from 0 and an align from 1"):
            planned_rows(*arguments)


REFUSED: tuple[tuple[tuple[Any, ...], str], ...] = (
    ((torch.zeros(4, dtype=torch.int32), 4), "experts has 1 dimensions; give it two"),
    ((torch.zeros(2, 2, dtype=torch.int64), 4), "experts is torch.int64; convert it to torch.int32"),
    ((torch.zeros(2, 2, dtype=torch.int32), 0), "num_experts is 0; give at least 1"),
    ((torch.zeros(2, 2, dtype=torch.int32), 4, 0), "align is 0; give at least 1"),
    (
        (torch.zeros(2, 2, dtype=torch.int32), 4, 2**30),
        "the plan may need .* but row numbers are int32; split the tokens",
    ),
)


@BOTH
@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refuses(plan: Plan, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        plan(*arguments)
