"""P1's laws as fits, for a plan without a study of one's own; A and B of the dense models are approximations.

P1 prints E, alpha and beta of every family, but A and B of the sparse models alone (Table 12). Here a dense law takes
the two from what else is printed: its loss along the best runs is the published frontier L = k C^c over the budgets
that P1 trained, and D / N is 50 at 1e21 FLOPs, which is an ASSUMPTION. P1 publishes how far resamples scatter for early
fusion (Table 11: alpha and beta); the intervals are those of laws with that scatter, each again on the frontier, with
D / N between 40 and 63. The same scatter is assumed for late fusion. For the sparse models nothing is published, so
there is no interval.
"""

import math
from collections.abc import Sequence

import numpy as np

from megatron_nmm.config.presets import EARLY_FUSION, sparse_early_fusion
from megatron_nmm.models.accounting.parameters import parameters
from megatron_nmm.scaling.law import Fitted, Law, Quality
from megatron_nmm.scaling.papers import published
from megatron_nmm.scaling.plan.optimum import Cost, of_flops
from megatron_nmm.scaling.point import AVERAGE

STUDY = "paper"
ANCHOR = 1e21
"""FLOPs at which the ratio of tokens to parameters is assumed."""
RATIOS = (40.0, 63.0)
"""The range of tokens per parameter there that agrees with the published figures."""
BUDGETS = (3e19, 1e22)
"""FLOPs between which a law is put on its frontier."""
POINTS = 12
"""Budgets between them."""
RESAMPLES = 100
LEAST_EXPONENT = 0.05
"""A draw below this would say that size does not matter."""


def fits() -> tuple[Fitted, ...]:
    """Early, late and sparse early fusion on 45-45-10, mean loss."""
    sizes, encoders = zip(*published.LATE_SIZES, strict=True)
    slope, intercept = np.polyfit(sizes, encoders, 1)
    late = Cost(published.VISION_SHARE, (float(slope), float(intercept)))
    rows = {row.name: row for row in published.TABLE_2 if row.kind == AVERAGE}
    return (
        _fit("early", published.DENSE, _resamples(rows["early"], Cost()), Cost(published.VISION_SHARE)),
        _fit("late", _printed(rows["late"], late), _resamples(rows["late"], late), late),
        _fit("sparse", published.MOE, (), Cost(published.VISION_SHARE), _total()),
    )


def frontier(family: str) -> published.Frontier | None:
    """The published L = k C^c of a family on 45-45-10, mean loss; None where P1 has none."""
    chosen = (family, "45-45-10", AVERAGE)
    return next((one for one in published.FRONTIERS if (one.family, one.mixture, one.kind) == chosen), None)


def _fit(
    family: str, law: Law, samples: tuple[Law, ...], cost: Cost, total: tuple[float, float] = (1.0, 0.0)
) -> Fitted:
    sizes = [size for size, _ in published.LATE_SIZES] if family == "late" else published.DEPTH_24
    return Fitted(
        law,
        STUDY,
        family,
        AVERAGE,
        "45-45-10",
        Quality(*published.TABLE_10["held in"], points=0),
        vision_share=cost.share,
        encoder=cost.encoder,
        samples=samples,
        ranges={"parameters": (min(sizes), max(sizes)), "tokens": published.TOKEN_RANGE, "flops": BUDGETS},
        total=total,
    )


def _printed(row: published.Row, cost: Cost) -> Law:
    """The law with the printed E, alpha and beta, A and B from the frontier and the assumed ratio."""
    return _on_frontier(row, [(row.alpha, row.beta, published.ASSUMED_TOKENS_PER_PARAMETER)], cost, floor=row.E)[0]


def _resamples(row: published.Row, cost: Cost) -> tuple[Law, ...]:
    """Laws whose exponents scatter as published; always the same ones."""
    random = np.random.default_rng(0)
    alphas = random.normal(row.alpha, published.TABLE_11["alpha"][1], RESAMPLES)
    betas = random.normal(row.beta, published.TABLE_11["beta"][1], RESAMPLES)
    ratios = np.exp(random.uniform(math.log(RATIOS[0]), math.log(RATIOS[1]), RESAMPLES))
    return _on_frontier(row, list(zip(np.maximum(alphas, LEAST_EXPONENT), betas, ratios, strict=True)), cost)


def _on_frontier(
    row: published.Row, draws: Sequence[tuple[float, float, float]], cost: Cost, floor: float | None = None
) -> tuple[Law, ...]:
    """Laws of each (alpha, beta, tokens per parameter) whose best losses are nearest to the published frontier's.

    Without ``floor``, E is fitted with A; B is A times what the ratio of tokens to parameters asks for.
    """
    shapes = [_shape(*draw, cost) for draw in draws]
    budgets = np.geomspace(*BUDGETS, POINTS)
    found = frontier(row.name)
    assert found is not None, f"P1 prints a frontier of {row.name}"
    aims = np.array([found.loss(flops) for flops in budgets])
    reducible = np.array([of_flops(shapes, cost, flops).losses for flops in budgets])
    laws = []
    for shape, column in zip(shapes, reducible.T, strict=True):
        if floor is None:
            a, e = np.polyfit(column, aims, 1)
        else:
            a, e = column @ (aims - floor) / (column @ column), floor
        laws.append(Law(float(e), float(a), float(a) * shape.B, shape.alpha, shape.beta))
    return tuple(laws)


def _shape(alpha: float, beta: float, ratio: float, cost: Cost) -> Law:
    """E = 0, A = 1, and the B whose best run of ``ANCHOR`` FLOPs has that many tokens per parameter."""
    sizes = np.geomspace(1e7, 1e12, 4001)
    n = np.exp(np.interp(np.log(ANCHOR), np.log(ratio * sizes * cost.flops(sizes)), np.log(sizes)))
    elasticity = float(cost.elasticity(np.array([n]))[0])
    return Law(
        0.0, 1.0, float(alpha * n**-alpha * (ratio * n) ** beta / (beta * elasticity)), float(alpha), float(beta)
    )


def _total() -> tuple[float, float]:
    """All parameters of P1's sparse sizes as a line in the active ones."""
    counted = [parameters(sparse_early_fusion(label)) for label in EARLY_FUSION]
    slope, intercept = np.polyfit([one.paper for one in counted], [one.paper_total for one in counted], 1)
    return float(slope), float(intercept)
