"""The learning rate follows P1's rules at every step of runs of every length."""

import math

import pytest

from megatron_nmm.config import OptimConfig, ScheduleConfig
from megatron_nmm.config.warmup import warmup_steps
from megatron_nmm.train.schedule import rate, shape


@pytest.mark.parametrize(
    ("steps", "warmup"),
    [(10, 1), (55, 6), (999, 100), (1_000, 1_000), (4_000, 1_000), (5_000, 2_500), (14_999, 2_500), (160_000, 5_000)],
)
def test_warmup_rule_of_p1(steps: int, warmup: int) -> None:
    assert warmup_steps(ScheduleConfig(), steps) == warmup


@pytest.mark.parametrize(
    ("steps", "warmup"), [(20_000, 5_000), (19_999, 2_500), (5_000, 2_500), (4_000, 2_000), (1_000, 500), (400, 40)]
)
def test_sparse_experts_warm_up_longer(steps: int, warmup: int) -> None:
    assert warmup_steps(ScheduleConfig(), steps, sparse=True) == warmup
    assert shape(ScheduleConfig(kind="constant"), steps, warmup, sparse=True) == 1.0
    assert shape(ScheduleConfig(kind="constant"), steps, warmup - 1, sparse=True) < 1.0


def test_configured_warmup_wins() -> None:
    assert warmup_steps(ScheduleConfig(warmup=200), 160_000) == 200
    assert shape(ScheduleConfig(warmup=0), 100, 1) == 1.0


def test_warmup_is_linear_and_ends_at_the_peak() -> None:
    schedule = ScheduleConfig(warmup=10)
    assert [shape(schedule, 100, step) for step in (1, 5, 10, 11)] == [0.1, 0.5, 1.0, 1.0]


def test_cooldown_is_one_minus_sqrt_over_the_last_fifth() -> None:
    schedule = ScheduleConfig(kind="cooldown", warmup=0, cooldown=0.2)
    assert shape(schedule, 100, 80) == shape(schedule, 100, 81) == 1.0
    assert shape(schedule, 100, 86) == pytest.approx(1 - math.sqrt(5 / 20))
    assert shape(schedule, 100, 100) == pytest.approx(1 - math.sqrt(19 / 20))
    assert shape(schedule, 100, 101) == 0.0


def test_cosine_from_warmup_to_floor() -> None:
    schedule = ScheduleConfig(kind="cosine", warmup=20, floor=0.1)
    assert shape(schedule, 120, 21) == 1.0
    assert shape(schedule, 120, 71) == pytest.approx(0.55)
    assert shape(schedule, 120, 121) == pytest.approx(0.1)


def test_constant_stays() -> None:
    assert {shape(ScheduleConfig(kind="constant", warmup=5), 50, step) for step in range(5, 51)} == {1.0}


@pytest.mark.parametrize("kind", ["cooldown", "cosine", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 7, 1_000])
def test_every_update_has_a_rate_above_zero_and_at_most_the_peak(kind: str, steps: int) -> None:
    schedule = ScheduleConfig(kind=kind)  # type: ignore[arg-type]
    rates = [rate(schedule, OptimConfig(learning_rate=2e-3), steps, step) for step in range(1, steps + 1)]
    assert all(0.0 < value <= 2e-3 for value in rates)


def test_overlapping_warmup_and_cooldown_take_the_lower() -> None:
    schedule = ScheduleConfig(kind="cooldown", warmup=100, cooldown=0.5)
    assert shape(schedule, 100, 40) == 0.4
    assert shape(schedule, 100, 60) == pytest.approx(1 - math.sqrt(9 / 50))
