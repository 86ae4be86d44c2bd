"""Proof of the intervals: studies of a known law with noise, and how often the 95 % interval holds the truth."""

from collections.abc import Callable

import numpy as np

from megatron_nmm.scaling.fit.bootstrap import bootstrap
from megatron_nmm.scaling.fit.exponents import closed_form
from megatron_nmm.scaling.fit.minimise import minimise
from megatron_nmm.scaling.fit.objective import Array, Runs, runs_of
from megatron_nmm.scaling.fit.quality import groups
from megatron_nmm.scaling.law import Law
from megatron_nmm.scaling.papers.published import DEPTH_24, MOE, TOKEN_RANGE

LENGTHS = 13
"""Token counts of each size: 78 runs, as P1's 76 of a mixture."""
NOISE = 0.005
"""Deviation of log L, about what two seeds differ by."""

Tell = Callable[[int, int], None]


def prove(
    trials: int = 100,
    resamples: int = 100,
    seed: int = 0,
    law: Law = MOE,
    noise: float = NOISE,
    tell: Tell | None = None,
) -> dict[str, int]:
    """In how many of ``trials`` studies the interval of each coefficient and exponent holds the law's."""
    exponents = closed_form(law.alpha, law.beta)
    truth = {**vars(law), "a": exponents.a, "b": exponents.b, "d": exponents.d}
    held = dict.fromkeys(truth, 0)
    for trial in range(trials):
        runs, labels = _study(law, noise, np.random.default_rng((seed, trial)))
        told = bootstrap(runs, minimise(runs), labels, resamples, trial).intervals()
        for name, value in truth.items():
            held[name] += told[name].low <= value <= told[name].high
        if tell:
            tell(trial + 1, trials)
    return held


def _study(law: Law, noise: float, random: np.random.Generator) -> tuple[Runs, tuple[Array, Array]]:
    """P1's sizes, each at ``LENGTHS`` token counts."""
    n, d = (grid.ravel() for grid in np.meshgrid(DEPTH_24, np.geomspace(*TOKEN_RANGE, LENGTHS), indexing="ij"))
    losses = law.loss(n, d) * np.exp(noise * random.standard_normal(n.size))
    return runs_of(n, d, losses), (groups(n), groups(d))
