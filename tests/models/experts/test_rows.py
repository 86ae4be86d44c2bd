"""Splitting rows by modality and joining them again: copies both ways, forward and backward."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_nmm.config import RunConfig
from megatron_nmm.models.experts.routing import Routing
from megatron_nmm.models.experts.rows import join_rows, split_rows
from megatron_nmm.verify import layouts
from tests.models.experts.plain import native_batch

CPU = torch.device("cpu")


def routing(visual: list[bool]) -> Routing:
    """The routing of rows marked as visual or not."""
    marks = torch.tensor(visual)
    order = torch.cat([(~marks).nonzero().squeeze(1), marks.nonzero().squeeze(1)])
    return Routing(order, order.argsort(), int((~marks).sum()))


MIXED = routing([False, True, True, False, False, True, False])
TEXT, VISUAL = routing([False] * 4), routing([True] * 4)


def rows(count: int) -> torch.Tensor:
    """[count, 1, 3] random numbers."""
    return torch.randn(count, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_routing_of_a_batch_orders_its_rows_by_modality() -> None:
    batch = native_batch(layouts.toy(RunConfig()), seed=1)
    plan = Routing.of(batch, CPU)
    visual = (batch.modality.reshape(-1) == 1) | (batch.tokens.reshape(-1) == 2)
    assert plan.text == int((~visual).sum())
    assert not visual[plan.order[: plan.text]].any() and visual[plan.order[plan.text :]].all()
    assert torch.equal(plan.order[plan.home], torch.arange(len(visual)))
    for part in (plan.order[: plan.text], plan.order[plan.text :]):
        assert (part.diff() > 0).all(), "each modality stays in sequence order"


def test_text_and_visual_rows_part_in_order() -> None:
    x = torch.arange(7)[:, None]
    text, visual = split_rows(x, MIXED)
    assert text.flatten().tolist() == [0, 3, 4, 6]
    assert visual.flatten().tolist() == [1, 2, 5]
    assert torch.equal(join_rows(text, visual, MIXED), x)


@pytest.mark.parametrize("plan", [MIXED, TEXT, VISUAL], ids=["mixed", "text alone", "visual alone"])
def test_gradients_are_those_of_finite_differences(plan: Routing) -> None:
    def weighted(x: torch.Tensor) -> torch.Tensor:
        text, visual = split_rows(x, plan)
        return join_rows(text.sin(), visual.square(), plan)

    assert torch.autograd.gradcheck(weighted, (rows(len(plan.order)).requires_grad_(),))


def test_a_row_of_zeros_stands_in_for_an_absent_modality_and_text_alone_is_not_copied() -> None:
    x = rows(4)
    text, visual = split_rows(x, TEXT)
    assert text.data_ptr() == x.data_ptr() and torch.equal(visual, torch.zeros(1, 1, 3))
    assert join_rows(text, visual + 1, TEXT).data_ptr() == x.data_ptr()
    text, visual = split_rows(x, VISUAL)
    assert torch.equal(visual, x) and torch.equal(text, torch.zeros(1, 1, 3))
    assert torch.equal(join_rows(text + 1, visual, VISUAL), x)


def test_what_stood_in_gets_a_gradient_of_zero() -> None:
    for plan, absent in ((TEXT, 1), (VISUAL, 0)):
        parts = [part.requires_grad_() for part in split_rows(rows(4), plan)]
        join_rows(*parts, plan).sum().backward()
        assert torch.equal(parts[absent].grad, torch.zeros(1, 1, 3))
        assert torch.equal(parts[1 - absent].grad, torch.ones(4, 1, 3))


class Operators(TorchDispatchMode):
    """Notes every operator that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func.overloadpacket).removeprefix("aten."))
        return func(*args, **(kwargs or {}))


def test_the_way_back_is_a_gather_and_never_a_scatter() -> None:
    x = rows(7).requires_grad_()
    with Operators() as operators:
        join_rows(*split_rows(x, MIXED), MIXED).backward(torch.ones(7, 1, 3, dtype=torch.float64))
    assert operators.names.count("index_select") == 6
    assert not [name for name in operators.names if "add" in name or "scatter" in name or "index_put" in name]


@pytest.mark.parametrize("plan", [MIXED, TEXT, VISUAL])
def test_rows_are_filled_up_with_zeros_to_a_multiple(plan: Routing) -> None:
    x = torch.randn(len(plan.home), 1, 3, dtype=torch.float64, requires_grad=True)
    filled = replace(plan, multiple=4)
    parts = split_rows(x, filled)
    assert all(len(part) % 4 == 0 and len(part) for part in parts)
    for part, real in zip(parts, (plan.text, len(plan.home) - plan.text), strict=True):
        assert not part[real:].any()
    assert torch.equal(join_rows(*parts, filled), x)
    assert torch.autograd.gradcheck(lambda x: join_rows(*(p.sin() for p in split_rows(x, filled)), filled), x)
