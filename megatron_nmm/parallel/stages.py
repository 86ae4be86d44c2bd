"""Which decoder layers stand on which pipeline stage, so that the slowest stage takes as little as possible.

The first stage also embeds tokens and images, the last one computes logits; both can cost as much as many layers. All
layers cost the same, so the stages between are filled evenly and only the two ends are searched: the plan is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_nmm.errors import ConfigError


@dataclass(frozen=True)
class StageCosts:
    """What the parts of a pipeline cost, in any one unit."""

    layer: float
    """One decoder layer."""
    first: float
    """What the first stage does besides its layers."""
    last: float
    """What the last stage does besides its layers."""

    def of(self, stage_layers: Sequence[int]) -> list[float]:
        """Cost of every stage with these layers."""
        costs = [layers * self.layer for layers in stage_layers]
        costs[0] += self.first
        costs[-1] += self.last
        return costs

    def imbalance(self, stage_layers: Sequence[int]) -> float:
        """The slowest stage over the mean: what the pipeline pays for uneven stages; 1 = nothing."""
        costs = self.of(stage_layers)
        return max(costs) * len(costs) / sum(costs)


def plan_stages(layers: int, costs: StageCosts, stages: int) -> tuple[int, ...]:
    """Layers of each stage. Of the plans with the cheapest slowest stage, the one whose stages differ least.

    Every stage has a layer; the first and the last one may go without where they have other work to do.
    ConfigError for fewer layers than stages.
    """
    if layers < stages:
        raise ConfigError(
            f"model.layers {layers} is fewer than parallel.pipeline {stages}; use a pipeline of at most {layers} stages"
        )
    if stages == 1:
        return (layers,)
    plans = _plans(layers, stages, int(costs.first <= 0), int(costs.last <= 0))
    return min(plans, key=lambda plan: (max(costs.of(plan)), sum(cost**2 for cost in costs.of(plan))))


def _plans(layers: int, stages: int, fewest_first: int, fewest_last: int) -> list[tuple[int, ...]]:
    """Every number of layers on the two ends, with the rest spread over the stages between, more of them earlier."""
    between = stages - 2
    plans = []
    for first in range(fewest_first, layers - between + 1):
        lasts = range(fewest_last, layers - first - between + 1) if between else [layers - first]
        for last in lasts:
            even, more = divmod(layers - first - last, between) if between else (0, 0)
            plans.append((first, *(even + (stage < more) for stage in range(between)), last))
    return [plan for plan in plans if plan[-1] >= fewest_last]
