"""Planned stages are the best there are: compared with every way to cut small decoders."""

import random
from itertools import product

import pytest

from megatron_nmm.errors import ConfigError
from megatron_nmm.parallel.stages import StageCosts, plan_stages


def every_cut(layers: int, stages: int, costs: StageCosts) -> list[tuple[int, ...]]:
    """All legal ways: a stage without layers is the first or last, and has other work to do."""
    found = []
    for plan in product(range(layers + 1), repeat=stages):
        idle = [n == 0 for n in plan]
        first = idle[0] and not costs.first
        last = idle[-1] and not costs.last
        if sum(plan) == layers and not (first or last or any(idle[1:-1])):
            found.append(plan)
    return found


def test_plan_is_the_best_of_all_cuts() -> None:
    draw = random.Random(4)
    uneven = empty = 0
    for _ in range(300):
        stages = draw.randrange(1, 5)
        layers = draw.randrange(stages, 9)
        costs = StageCosts(draw.choice([1.0, 2.5]), draw.choice([0, 0.2, 1, 3, 9]), draw.choice([0, 0.4, 2, 5]))
        plan = plan_stages(layers, costs, stages)
        cuts = every_cut(layers, stages, costs)
        assert plan in cuts
        assert max(costs.of(plan)) == min(max(costs.of(cut)) for cut in cuts)
        best = [cut for cut in cuts if max(costs.of(cut)) == max(costs.of(plan))]
        squares = [sum(cost**2 for cost in costs.of(cut)) for cut in best]
        assert sum(cost**2 for cost in costs.of(plan)) == pytest.approx(min(squares))
        uneven += len(set(plan)) > 1
        empty += 0 in plan
    assert min(uneven, empty) > 20


@pytest.mark.parametrize(
    ("layers", "costs", "stages", "plan"),
    [
        (24, StageCosts(1, 0, 0), 4, (6, 6, 6, 6)),
        (24, StageCosts(1, 0, 0), 1, (24,)),
        (4, StageCosts(1, 2, 0), 2, (1, 3)),
        (4, StageCosts(1, 9, 0), 2, (0, 4)),
        (4, StageCosts(1, 0, 9), 2, (4, 0)),
        (7, StageCosts(1, 0, 0), 3, (2, 3, 2)),
        (24, StageCosts(1, 20, 2), 4, (0, 9, 9, 6)),
    ],
)
def test_plans_one_would_make_by_hand(layers: int, costs: StageCosts, stages: int, plan: tuple[int, ...]) -> None:
    found = plan_stages(layers, costs, stages)
    assert max(costs.of(found)) == max(costs.of(plan))
    assert sorted(found) == sorted(plan)


def test_imbalance_is_the_slowest_over_the_mean() -> None:
    assert StageCosts(1, 0, 0).imbalance((3, 3)) == 1
    assert StageCosts(1, 2, 0).imbalance((2, 2)) == pytest.approx(4 / 3)
    assert StageCosts(1, 2, 4).of((1, 0, 1)) == [3, 0, 5]


def test_large_pipelines_are_planned_at_once() -> None:
    plan = plan_stages(128, StageCosts(1, 3.3, 2.1), 64)
    assert (sum(plan), max(StageCosts(1, 3.3, 2.1).of(plan))) == (128, 3.3)


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.layers 2 is fewer than parallel\.pipeline 3; use a pipeline of at"):
        plan_stages(2, StageCosts(1, 0, 0), 3)
