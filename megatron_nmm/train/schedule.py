"""The learning rate of a step: a pure function of the run's length and the step's number."""

import math

from megatron_nmm.config import OptimConfig, ScheduleConfig
from megatron_nmm.config.warmup import warmup_steps


def shape(schedule: ScheduleConfig, steps: int, step: int, *, sparse: bool = False) -> float:
    """The rate of ``step`` (1 to ``steps``) as a share of the peak, in [0, 1].

    Warm-up climbs to the peak at its last step. A fall starts at the peak and would reach the floor at
    step ``steps`` + 1, so that no update is spent at rate zero. Where warm-up and fall overlap, the lower one counts.
    """
    warmup = warmup_steps(schedule, steps, sparse=sparse)
    climb = step / warmup if step < warmup else 1.0
    fall = schedule.floor + (1.0 - schedule.floor) * _fall(schedule, steps, warmup, step)
    return min(climb, fall)


def rate(schedule: ScheduleConfig, optim: OptimConfig, steps: int, step: int, *, sparse: bool = False) -> float:
    """Learning rate of ``step`` (1 to ``steps``) in a run of ``steps``; ``sparse``: the model has sparse experts."""
    return optim.learning_rate * shape(schedule, steps, step, sparse=sparse)


def _fall(schedule: ScheduleConfig, steps: int, warmup: int, step: int) -> float:
    """The falling part, from 1 to 0."""
    if schedule.kind == "constant":
        return 1.0
    if schedule.kind == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * _progress(warmup, steps, step)))
    # P1 cites Haegele et al. (arXiv 2405.18392) for the 1 - sqrt cooldown over the last share of the run.
    cooldown = round(schedule.cooldown * steps)
    return 1.0 - math.sqrt(_progress(steps - cooldown, steps, step))


def _progress(start: int, end: int, step: int) -> float:
    """How far ``step`` is from ``start`` (the last step before the fall) to ``end``, in [0, 1]."""
    return min(max((step - 1 - start) / max(end - start, 1), 0.0), 1.0)
