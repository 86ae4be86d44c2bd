"""Steps of linear warm-up: as configured, or P1's rule from the length of a run (appendix A)."""

import math

from megatron_nmm.config.schema import ScheduleConfig

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
