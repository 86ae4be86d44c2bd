"""route chooses, scores and counts as a plain loop does, breaks ties by index, and refuses what it cannot take."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from nmm_kernels.route import reference

BOTH = pytest.mark.parametrize("route", [torch.ops.nmm.route, reference.route], ids=["operator", "reference"])
Route = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def by_hand(
    logits: list[float], top_k: int, score: str, normalise: bool, bias: list[float]
) -> tuple[list[float], list[int]]:
    """One token's probabilities and experts, in Python's own arithmetic."""
    if score == "softmax":
        total = sum(math.exp(value) for value in logits)
        scores = [math.exp(value) / total for value in logits]
    else:
        scores = [1 / (1 + math.exp(-value)) for value in logits]
    experts = sorted(range(len(logits)), key=lambda e: (-(scores[e] + bias[e]), e))[:top_k]
    chosen = [scores[e] for e in experts]
    return [value / (sum(chosen) if normalise else 1) for value in chosen], experts


@BOTH
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_is_what_a_loop_computes(route: Route, score: str, normalise: bool, biased: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(40, 6, generator=generator) * 3
    bias = torch.randn(6, generator=generator) if biased else torch.zeros(6)
    probabilities, experts, counts = route(logits, 3, score, normalise, bias if biased else None)
    chosen: list[int] = []
    for t, row in enumerate(logits.tolist()):
        expected, indices = by_hand(row, 3, score, normalise, bias.tolist())
        assert experts[t].tolist() == indices
        assert probabilities[t].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7)
        chosen += indices
    assert counts.tolist() == [chosen.count(e) for e in range(6)]


@BOTH
def test_known_values(route: Route) -> None:
    logits = torch.tensor([[0.0, math.log(3.0), math.log(4.0), 0.0]], dtype=torch.float32)
    probabilities, experts, counts = route(logits, 2)
    assert experts.tolist() == [[2, 1]] and counts.tolist() == [0, 1, 1, 0]
    torch.testing.assert_close(probabilities, torch.tensor([[4 / 9, 3 / 9]]))
    torch.testing.assert_close(route(logits, 2, "softmax", True)[0], torch.tensor([[4 / 7, 3 / 7]]))
    torch.testing.assert_close(route(logits, 2, "sigmoid")[0], torch.tensor([[4 / 5, 3 / 4]]))


@BOTH
def test_bias_steers_the_choice_and_leaves_the_probability(route: Route) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    probabilities, experts, _ = route(logits, 1, "softmax", False, torch.tensor([-1.0, 0.0, 0.0]))
    assert experts.tolist() == [[1]]
    assert probabilities.item() == pytest.approx(torch.softmax(logits, -1)[0, 1].item())


@BOTH
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("bias", [None, torch.zeros(6)])
def test_equal_experts_are_taken_in_order_of_index(route: Route, score: str, bias: torch.Tensor | None) -> None:
    logits = torch.tensor([[1.0, 2.0, 1.0, 2.0, 2.0, 0.0], [0.0, -0.0, 0.0, -0.0, 0.0, 0.0]])
    assert route(logits, 5, score, False, bias)[1].tolist() == [[1, 3, 4, 0, 2], [0, 1, 2, 3, 4]]


@BOTH
def test_an_expert_can_be_ruled_out_by_an_infinite_bias(route: Route) -> None:
    bias = torch.tensor([0.0, -math.inf, 0.0, -math.inf])
    _, experts, counts = route(torch.tensor([[1.0, 9.0, 2.0, 9.0]]), 3, "sigmoid", False, bias)
    assert experts.tolist() == [[2, 0, 1]]  # the first of the equally impossible when nothing else is left
    assert counts.tolist() == [1, 1, 1, 0]


@BOTH
def test_nan_shows_and_every_index_stays_valid(route: Route) -> None:
    logits = torch.tensor([[math.nan] * 4, [0.0, math.nan, 5.0, math.nan]])
    probabilities, experts, counts = route(logits, 3)
    assert experts.tolist() == [[0, 1, 2], [1, 3, 2]]
    assert probabilities.isnan().all() and counts.sum().item() == 6


@BOTH
def test_large_logits_neither_overflow_nor_vanish(route: Route) -> None:
    probabilities, experts, _ = route(torch.tensor([[3e4, -3e4, 3e4 - 1]]), 3)
    assert experts.tolist() == [[0, 2, 1]]
    torch.testing.assert_close(probabilities, torch.tensor([[0.7310586, 0.2689414, 0.0]]))
    torch.testing.assert_close(
        route(torch.tensor([[200.0, -200.0]]), 2, "sigmoid")[0], torch.tensor([[1.0, 0.0]]), atol=1e-30, rtol=1e-6
    )


REFUSED: tuple[tuple[tuple[Any, ...], str], ...] = (
    ((torch.zeros(4), 1), "logits has 1 dimensions; give it two"),
    ((torch.zeros(2, 4, dtype=torch.int64), 1), "logits is torch.int64; convert it to float32"),
    ((torch.zeros(2, 4), 0), "top_k is 0 for 4 experts; give 1 to 4"),
    ((torch.zeros(2, 4), 5), "top_k is 5 for 4 experts; give 1 to 4"),
    ((torch.zeros(2, 4), 1, "tanh"), 'score is "tanh"; give "softmax" or "sigmoid"'),
    ((torch.zeros(2, 4), 1, "softmax", False, torch.zeros(3)), "bias has 3 values; give one value for each of 4"),
    (
        (torch.zeros(2, 4), 1, "softmax", False, torch.zeros(4).half()),
        "bias is torch.float16; convert it to torch.float32",
    ),
)


@BOTH
@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refuses(route: Route, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        route(*arguments)
