"""What a study costs before it runs: FLOPs of every run, what shared trunks save, GPU hours."""

from collections.abc import Iterable
from dataclasses import dataclass

from megatron_nmm.config.schema_model import ModelConfig
from megatron_nmm.models.accounting import parameters
from megatron_nmm.scaling.point import study_flops
from megatron_nmm.scaling.sweep.expand import Branch, Trunk, step_tokens


@dataclass(frozen=True)
class Sizes:
    """Parameters as the laws count them (point.py)."""

    active: float
    total: float
    vision: float


def sizes(model: ModelConfig) -> Sizes:
    """Exact counts of ``model``. In early fusion the patch stem counts as decoder: there is no encoder."""
    counted = parameters(model)
    vision = counted.vision + counted.connector if model.vision.depth else 0
    return Sizes(float(counted.active), float(counted.total), float(vision))


@dataclass(frozen=True)
class Cost:
    """Of some runs."""

    runs: int
    trunks: int
    alone: float
    """FLOPs if every run began at step 1."""
    shared: float
    """FLOPs with the trunks' steps taken once."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.runs + other.runs,
            self.trunks + other.trunks,
            self.alone + other.alone,
            self.shared + other.shared,
        )

    @property
    def saved(self) -> float:
        """Share of the FLOPs that branching saves."""
        return 1 - self.shared / self.alone if self.alone else 0.0


def per_step(trunk: Trunk) -> float:
    """FLOPs of a step by P1's estimate (point.py), images at the mixture's share."""
    counted, tokens = sizes(trunk.run.model), step_tokens(trunk.run)
    return study_flops(counted.active, counted.vision, tokens, trunk.mixture.image_share * tokens)


def cooling(branch: Branch) -> int:
    """Steps that ``branch`` takes by itself."""
    return branch.run.steps - branch.start


def cost(trunks: Iterable[Trunk]) -> Cost:
    """Of all branches of ``trunks``."""
    total = Cost(0, 0, 0.0, 0.0)
    for trunk in trunks:
        flops = per_step(trunk)
        alone = flops * sum(branch.run.steps for branch in trunk.branches)
        needed = max(branch.start for branch in trunk.branches)
        shared = flops * (needed + sum(cooling(branch) for branch in trunk.branches))
        total += Cost(len(trunk.branches), 1, alone, shared)
    return total


def gpu_hours(flops: float, peak: float, mfu: float) -> float:
    """Hours of one GPU that reaches the share ``mfu`` of ``peak`` FLOP/s."""
    return flops / (peak * mfu) / 3600
