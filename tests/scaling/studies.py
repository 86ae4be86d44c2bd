"""Studies made from the papers' laws with noise: what a sweep at P1's sizes would measure."""

from dataclasses import replace

import numpy as np

from megatron_nmm.scaling.law import Fitted, Interval, Law, Quality
from megatron_nmm.scaling.papers.laws import fits
from megatron_nmm.scaling.papers.published import DEPTH_24, LATE_SIZES
from megatron_nmm.scaling.plan.optimum import Cost
from megatron_nmm.scaling.point import Family, Point
from megatron_nmm.scaling.report.study import Study

TOKENS = tuple(np.geomspace(5e9, 4e11, 7))
KINDS = {"caption": 0.86, "interleaved": 1.04, "text": 1.10}
"""Kind -> its loss over the mean."""


def points(fitted: Fitted, noise: float = 0.004, seed: int = 0) -> tuple[Point, ...]:
    """A run of each size and number of tokens."""
    random, cost = np.random.default_rng(seed), Cost.of(fitted)
    family: Family = fitted.family  # type: ignore[assignment]
    sizes = [n for n, _ in LATE_SIZES] if family == "late" else list(DEPTH_24)
    found = []
    for n in sizes:
        for d in TOKENS:
            loss = fitted.law.loss(n, d) * float(np.exp(random.normal(0, noise)))
            vision = float(cost.vision(np.array([n]))[0])
            label = f"{n / 1e9:.3f}b"
            found.append(
                Point(
                    run=f"{family}-{label}-{d / 1e9:.0f}b",
                    study="made",
                    family=family,
                    size=label,
                    mixture="45-45-10",
                    seed=0,
                    active=n,
                    total=fitted.total[0] * n + fitted.total[1],
                    vision=vision,
                    tokens=d,
                    vision_tokens=0.544 * d,
                    flops=float(cost.flops(np.array([n]))[0]) * d,
                    counted_flops=0.0,
                    losses={kind: factor * loss for kind, factor in KINDS.items()},
                    experts=8 if family == "sparse" else 1,
                )
            )
    return tuple(found)


def fitted(one: Fitted, found: tuple[Point, ...], seed: int = 0) -> Fitted:
    """As a fit would give it: the true law, 60 laws around it, intervals, exponents and one outlier."""
    random = np.random.default_rng(seed)
    laws = [_near(one.law, random) for _ in range(60)]
    values = {name: np.array([getattr(law, name) for law in laws]) for name in ("E", "A", "B", "alpha", "beta")}
    values["a"] = values["beta"] / (values["alpha"] + values["beta"])
    values["b"] = 1 - values["a"]
    values["d"] = values["alpha"] / values["beta"]
    law = one.law
    a = law.beta / (law.alpha + law.beta)
    exponents = {"a": a, "b": 1 - a, "d": law.alpha / law.beta}
    return replace(
        one,
        study="made",
        quality=Quality(0.0003, 0.998, 0.33, len(found)),
        held_out=Quality(0.0004, 0.97, 0.41, 7),
        intervals={
            name: Interval(*np.percentile(draws, [2.5, 97.5]).tolist(), float(draws.std()))
            for name, draws in values.items()
        },
        exponents={
            "closed form": {**exponents, "k": 29.1, "c": -0.0489},
            "regression": {**exponents, "a": a + 0.004, "k": 29.6, "c": -0.0492},
        },
        samples=tuple(laws),
        warnings=("alpha is known to 20 % only: six sizes",),
        outliers=(f"{found[9].run} (z +4.2)",),
        runs=tuple(point.run for point in found),
    )


def _near(law: Law, random: np.random.Generator) -> Law:
    """A law with other exponents that says the same of the middle of the study."""
    alpha, beta = law.alpha * (1 + random.normal(0, 0.06)), law.beta * (1 + random.normal(0, 0.03))
    n, d = 1e9, 5e10
    a, b = law.A * n ** (alpha - law.alpha), law.B * d ** (beta - law.beta)
    return Law(law.E * (1 + random.normal(0, 0.004)), a, b, alpha, beta)


def made() -> Study:
    """Early, late and sparse models."""
    every = [(one, points(one, seed=seed)) for seed, one in enumerate(fits())]
    return Study(
        "made",
        tuple(point for _, found in every for point in found),
        tuple(fitted(one, found, seed) for seed, (one, found) in enumerate(every)),
        faults=("line 12 (early-0.275b-5b): loss on text is nan, not a finite number above 0",),
    )
