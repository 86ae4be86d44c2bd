"""The learning rate of a step: a pure function of the run's length and the step's number."""

import math

from megatron_nmm.config import OptimConfig, ScheduleConfig

WARMUP_RULE = (
    # from this many steps on, this much warm-up
    (15_000, 5_000),
    (5_000, 2_500),
    (1_000, 1_000),
)
"""P1's warm-up (appendix A): 1k steps for runs of 1k-4k, 2.5k for 5k-15k, never more than 5k."""

SPARSE_WARMUP_RULE = ((20_000, 5_000), (5_000, 2_500))
"""P1's for models with sparse experts, which it found to need long ones (appendix A): 2.5k for every run below 20k."""

SPARSE_WARMUP_SHARE = 0.5
"""Most of a run with sparse experts of 1,000 to 5,000 steps that warms up; 2.5k would leave nothing of some."""

SHORT_RUN_WARMUP = 0.1
"""Share of a run below P1's shortest (1,000 steps) that warms up; P1 has no such run, so this is our choice."""


def warmup_steps(schedule: ScheduleConfig, steps: int, *, sparse: bool = False) -> int:
    """Steps of linear warm-up in a run of ``steps``: the configured number, or P1's rule (``sparse``: with experts)."""
    if schedule.warmup is not None:
        return schedule.warmup
    for least, warmup in SPARSE_WARMUP_RULE if sparse else WARMUP_RULE:
        if steps >= least:
            return warmup
    if sparse and steps >= WARMUP_RULE[-1][0]:
        return min(SPARSE_WARMUP_RULE[-1][1], math.ceil(SPARSE_WARMUP_SHARE * steps))
    return math.ceil(SHORT_RUN_WARMUP * steps)


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
