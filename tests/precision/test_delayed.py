"""What delayed scaling remembers, step by step in a table; recomputed passes and evaluation leave no trace."""

import math

import pytest
import torch

from megatron_nmm.config import PrecisionConfig
from megatron_nmm.precision.delayed import DelayedCasts, first_state


def casts(**settings: object) -> tuple[DelayedCasts, torch.Tensor, torch.Tensor]:
    precision = PrecisionConfig(recipe="fp8_delayed", **settings)  # type: ignore[arg-type]
    scale, history = first_state(precision, torch.device("cpu"))
    return DelayedCasts(precision, None, scale, history), scale, history


def used(of: DelayedCasts, amax: float, *, training: bool = True, recomputes: bool = False) -> float:
    """The scale that an input with this largest magnitude was cast with."""
    matrix = torch.tensor([[amax, 0.0]])
    return of.scales({"input": matrix}, training=training, recomputes=recomputes)["input"].item()


@pytest.mark.parametrize(
    ("rule", "scales"),
    [("max", [1, 448, 112, 112, 112, 224, 224, 224]), ("most_recent", [1, 448, 112, 448, 224, 448, 448, 448])],
)
def test_scales_follow_the_history(rule: str, scales: list[float]) -> None:
    """A history of three: the 4 is forgotten after two more microbatches; 0 and infinity teach nothing."""
    of, _, _ = casts(amax_history=3, amax_rule=rule)
    assert [used(of, amax) for amax in (1.0, 4.0, 1.0, 2.0, 1.0, 0.0, 1.0, 1.0)] == scales


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_bad_amax_keeps_the_scale(bad: float) -> None:
    of, scale, _ = casts(amax_history=1)
    used(of, 2.0)
    used(of, bad)
    assert scale[0].item() == 224.0


def test_operands_learn_apart_and_gradients_in_their_own_format() -> None:
    of, scale, history = casts(amax_history=2)
    of.scales({"input": torch.tensor([[2.0]]), "weight": torch.tensor([[-4.0]])}, training=True, recomputes=False)
    of.scales({"gradient": torch.tensor([[0.5]])}, training=True, recomputes=False)
    assert scale.tolist() == [224.0, 112.0, 114688.0]
    assert history.tolist() == [[2.0, 4.0, 0.5], [0.0, 0.0, 0.0]]


def test_a_tiny_amax_takes_the_largest_scale_there_is() -> None:
    of, scale, _ = casts(amax_history=1)
    used(of, 1e-37)
    assert scale[0].item() == torch.finfo(torch.float32).max


def test_evaluation_leaves_no_trace() -> None:
    of, scale, history = casts()
    used(of, 2.0, training=False)
    assert scale.tolist() == [1, 1, 1] and not history.any()


def test_a_recomputed_pass_has_the_scales_of_its_first_one() -> None:
    """Two microbatches go forward before the first comes back, as in a pipeline."""
    of, scale, _ = casts(amax_history=1)
    first = [used(of, amax, training=False, recomputes=True) for amax in (2.0, 4.0)]
    learnt = scale[0].item()
    assert first == [1.0, 224.0] and learnt == 112.0
    assert [used(of, amax) for amax in (2.0, 4.0)] == first
    assert scale[0].item() == learnt


def test_what_has_grown_since_is_cut_off_and_counted() -> None:
    of, _, _ = casts(amax_history=1)
    used(of, 1.0)
    matrix = torch.tensor([[1.0, 1.03, 1.05, -2.0]])
    scales = of.scales({"input": matrix}, training=True, recomputes=False)
    operand, lost = of.read("input", matrix, scales, count=True)
    assert operand.values.tolist() == [[448.0, 448.0, 448.0, -448.0]]
    assert lost is not None and (lost.values, int(lost.overflow)) == (4, 2)
