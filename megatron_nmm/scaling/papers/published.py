"""What the two papers report of scaling, as data: coefficients, exponents, frontiers and chart readings.

P1 is "Scaling Laws for Native Multimodal Models" (arXiv 2504.07951), NaViL arXiv 2510.08565. Where the papers
contradict themselves both readings stand here, and ``CONTRADICTIONS`` names them. Values read off charts are marked.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from megatron_nmm.scaling.law import Law


@dataclass(frozen=True)
class Row:
    """A row of P1's Table 2 or 3; None where the paper prints nothing."""

    name: str
    """Family or, in Table 3, the mixture."""
    kind: str
    E: float
    alpha: float
    beta: float
    a: float
    """N ~ C^a."""
    b: float
    """D ~ C^b."""
    c: float | None
    """L ~ C^c."""
    d: float | None
    """D ~ N^d."""


TABLE_2 = (
    Row("chinchilla", "text", 1.693, 0.339, 0.285, 0.46, 0.54, None, None),
    Row("early", "text", 2.222, 0.3084, 0.3375, 0.5246, 0.4774, -0.0420, 0.9085),
    Row("early", "caption", 1.569, 0.3111, 0.3386, 0.5203, 0.4785, -0.0610, 0.9187),
    Row("early", "interleaved", 1.966, 0.2971, 0.338, 0.5315, 0.4680, -0.0459, 0.8791),
    Row("early", "avg", 1.904, 0.301, 0.335, 0.5262, 0.473, -0.0492, 0.8987),
    Row("late", "avg", 1.891, 0.2903, 0.3383, 0.6358, 0.4619, -0.0494, 0.6732),
    Row("sparse", "avg", 2.158, 0.710, 0.372, 0.361, 0.656, -0.047, 1.797),
)
"""P1 Table 2, mixture 45-45-10."""

TABLE_3 = (
    Row("45-45-10", "avg", 1.906, 0.301, 0.335, 0.527, 0.474, -0.0492, 0.901),
    Row("40-20-40", "avg", 1.965, 0.328, 0.348, 0.518, 0.486, -0.0486, 0.937),
    Row("30-30-40", "avg", 1.847, 0.253, 0.338, 0.572, 0.428, -0.0463, 0.748),
    Row("20-40-40", "avg", 1.836, 0.259, 0.354, 0.582, 0.423, -0.0488, 0.726),
)
"""P1 Table 3: early fusion on captions-interleaved-text."""

IMAGE_TO_TEXT = {"45-45-10": 1.19, "40-20-40": 0.65, "30-30-40": 0.59, "20-40-40": 0.49}
"""P1 Table 3: image tokens per text token."""
VISION_SHARE = 0.544
"""P1 section 2.1: Dv / D of 45-45-10."""
LATE_CONSTANT = 0.483
"""P1 appendix C prints this factor before Nv; Dv = 0.544 D gives 1 - 0.544 = 0.456 instead."""

TABLE_9: Mapping[str, Mapping[str, float]] = {
    "closed form": {"a": 0.52649, "b": 0.47351, "d": 0.89938, "N/D": 1.11188, "D/N": -0.05298},
    "regression": {"a": 0.52391, "b": 0.47534, "d": 0.90052, "N/D": 1.10224, "D/N": -0.04933},
}
"""P1 Table 9, early fusion: "N/D" is the exponent of N ~ D^x, "D/N" that of D/N ~ C^x."""

TABLE_10 = {"held in": (0.0029, 0.9807, 0.8608), "held out": (0.0004, 0.9682, 0.5530)}
"""P1 Table 10: MSE, R2, MAE %; held out is the 8.13B model."""

TABLE_11 = {
    "E": (1.809, 0.338),
    "alpha": (0.298, 0.101),
    "beta": (0.332, 0.029),
    "a": (0.543, 0.088),
    "b": (0.483, 0.058),
    "d": (0.924, 0.233),
}
"""P1 Table 11: mean and standard deviation over 100 resamples, early fusion."""

MOE = Law(E=2.158, A=381_773.0, B=4_659.0, alpha=0.710, beta=0.372)
"""P1 Table 12, N = active parameters: the only full set of coefficients the paper prints."""

SPARSITY = {
    "E": 1.0788,
    "A": 1.0,
    "B": 4660.0,
    "alpha": 0.5890,
    "beta": 0.3720,
    "C": 1.0788,
    "lam": 0.2,
    "d": 381_475.0,
    "delta": 0.2,
    "gamma": 0.70956,
}
"""P1 Table 12, second row: the sparsity-aware form of Abnar et al."""

DENSE = Law(E=1.904, A=262.0, B=1_800.0, alpha=0.301, beta=0.335)
"""Early fusion AVG with A and B that P1 does not print: solved from its frontier and an ASSUMED D/N of 50 at 1e21 FLOPs
(A 253 to 271 and B 1,870 to 1,730 for 63 to 40). For synthetic data only."""
ASSUMED_TOKENS_PER_PARAMETER = 50.0

CHART_EXPONENTS = {"early": (0.30051, 0.33491), "late": (0.2777, 0.34299)}
"""(alpha, beta) in the chart titles of P1 Fig. 2."""
FIG_1_RATIO = {"late": 0.076, "sparse": -0.312}
"""P1 Fig. 1: exponent of N/D ~ C^x."""

DEPTH_24 = (0.2748e9, 0.4640e9, 0.9317e9, 1.6268e9, 2.2799e9, 3.3542e9)
"""P1 Table 6: N of the early models, recomputed from their widths (the labels 0.275 to 3.354)."""
HELD_OUT = 8.129e9
LATE_SIZES = (
    (0.290e9, 42.5e6),
    (0.493e9, 81.8e6),
    (1.004e9, 169.9e6),
    (1.748e9, 308.3e6),
    (2.430e9, 418.3e6),
    (3.707e9, 679.5e6),
)
"""P1 Table 6: (N, Nv) of the late models, recomputed from their widths."""
TOKEN_RANGE = (2.5e9, 600e9)
"""P1 Table 6; the caption of Fig. 2 begins at 250M."""


@dataclass(frozen=True)
class Frontier:
    """L = scale C^slope, C in FLOPs."""

    family: str
    mixture: str
    kind: str
    scale: float
    slope: float
    source: str

    def loss(self, flops: float) -> float:
        """In nats."""
        return float(self.scale * flops**self.slope)


FRONTIERS = (
    Frontier("late", "45-45-10", "avg", 29.923, -0.0494, "P1 Fig. 5"),
    Frontier("late", "45-45-10", "caption", 49.99, -0.062, "P1 Fig. 5"),
    Frontier("late", "45-45-10", "interleaved", 25.303, -0.0460, "P1 Fig. 5"),
    Frontier("late", "45-45-10", "text", 22.642, -0.042, "P1 Fig. 5"),
    Frontier("early", "45-45-10", "avg", 29.574, -0.0492, "P1 Fig. 5"),
    Frontier("early", "45-45-10", "caption", 47.97, -0.061, "P1 Fig. 5"),
    Frontier("early", "45-45-10", "interleaved", 25.114, -0.0458, "P1 Fig. 5"),
    Frontier("early", "45-45-10", "text", 22.709, -0.042, "P1 Fig. 5"),
    Frontier("sparse", "45-45-10", "avg", 27.086, -0.048, "P1 Fig. 26"),
    Frontier("sparse", "45-45-10", "avg", 26.287, -0.047, "P1 Fig. 9"),
    Frontier("sparse", "45-45-10", "caption", 51.857, -0.064, "P1 Fig. 26"),
    Frontier("sparse", "45-45-10", "interleaved", 22.715, -0.044, "P1 Fig. 26"),
    Frontier("sparse", "45-45-10", "text", 20.036, -0.040, "P1 Fig. 26"),
    Frontier("early", "40-20-40", "avg", 28.590, -0.0486, "P1 Figs. 27, 28"),
    Frontier("early", "40-20-40", "caption", 49.477, -0.061, "P1 Figs. 27, 28"),
    Frontier("early", "40-20-40", "interleaved", 22.112, -0.043, "P1 Figs. 27, 28"),
    Frontier("early", "40-20-40", "text", 21.352, -0.042, "P1 Figs. 27, 28"),
    Frontier("early", "30-30-40", "avg", 25.623, -0.0463, "P1 Figs. 27, 28"),
    Frontier("early", "30-30-40", "caption", 39.518, -0.056, "P1 Figs. 27, 28"),
    Frontier("early", "30-30-40", "interleaved", 22.111, -0.043, "P1 Figs. 27, 28"),
    Frontier("early", "30-30-40", "text", 20.257, -0.041, "P1 Figs. 27, 28"),
    Frontier("early", "20-40-40", "avg", 29.002, -0.0488, "P1 Figs. 27, 28"),
    Frontier("early", "20-40-40", "caption", 46.216, -0.0589, "P1 Figs. 27, 28"),
    Frontier("early", "20-40-40", "interleaved", 23.888, -0.045, "P1 Figs. 27, 28"),
    Frontier("early", "20-40-40", "text", 22.150, -0.0425, "P1 Figs. 27, 28"),
)
"""P1 Figs. 5, 9, 26, 27, 28."""

BUDGETS = (1e20, 1e21, 1e22)
FRONTIER_LOSSES = {"early": (3.068, 2.740, 2.446), "late": (3.076, 2.745, 2.450), "sparse": (2.970, 2.659, 2.381)}
"""The AVG frontiers at ``BUDGETS``; of the sparse models, Fig. 26's."""
CROSSING = 25.5
"""log10 of the FLOPs where the printed early and late frontiers would meet."""
MOE_OPTIMA = ((0.43e9, 38e9), (0.96e9, 174e9), (2.1e9, 790e9))
"""(N, D) of ``MOE`` at ``BUDGETS``."""
MOE_RATIOS = {1e20: 89.0, 1e21: 183.0, 1e22: 374.0}
"""D / N there."""
HULL_ABOVE = 3e19
"""P1 appendix C: frontiers leave out cheaper runs, whose learning rates are still rising."""

ENCODERS = ((0.5e9, 0.3e9), (1.8e9, 0.6e9), (7e9, 1.2e9))
"""NaViL Fig. 7, read off the chart: (parameters of the LLM, best size of its encoder)."""
ENCODER_LINE = (0.435, 0.525, 1.30)
"""Through ``ENCODERS``: encoder (B) = 0.435 LLM (B)^0.525, and what it gives for 8B; NaViL-9B took 1.2B."""
ENCODER_TOLERANCE = 0.01
"""NaViL section 3.3: doubling the encoder must gain at least this share of the smallest encoder's loss."""
LLM_LOSSES = ((0.5e9, 1.04), (1.8e9, 0.81), (7e9, 0.68))
"""NaViL, read off a chart: held-out loss by size of the LLM, encoder of 600M."""
LLM_LOSS_LINE = (0.927, -0.136)
"""loss = 0.927 - 0.136 ln(LLM in B)."""
ENCODER_SHAPES = ((3, 4096, 604e6), (6, 2880, 597e6), (12, 2048, 604e6), (24, 1472, 624e6), (48, 1024, 604e6))
"""NaViL section 3.2: (depth, width, parameters = 12 depth width^2)."""

LLM_START = (
    (2.4e6, 1.78, 2.76),
    (10e6, 1.44, 2.02),
    (15e6, 1.25, 1.87),
    (29e6, 0.99, 1.62),
    (58e6, 0.83, 1.19),
    (88e6, 0.77, 0.96),
    (117e6, 0.735, 0.88),
    (1.17e9, 0.68, 0.73),
)
"""NaViL, read off a chart: (samples, loss from a pretrained LLM, loss from scratch)."""
LLM_START_SAVES = 10.0
"""NaViL's words: from scratch needs more than this many times the data for the same loss."""
MODALITY_EXPERTS = (
    (2.4e6, 2.28, 2.06),
    (4e6, 2.19, 1.92),
    (10e6, 2.07, 1.69),
    (15e6, 2.03, 1.53),
    (29e6, 1.96, 1.23),
    (58e6, 1.88, 1.03),
    (117e6, 1.77, 0.91),
)
"""NaViL, read off a chart: (samples, loss of the dense model, loss with modality experts)."""
MODALITY_EXPERTS_SAVE = 10.0
"""NaViL's words: modality experts reach the dense model's loss with a tenth of the data."""


@dataclass(frozen=True)
class Contradiction:
    """One quantity to which the papers give several values."""

    what: str
    readings: Mapping[str, float]
    """By place."""


CONTRADICTIONS = {
    "late a": Contradiction("late fusion, N ~ C^a", {"Table 2": 0.6358, "Fig. 22": 0.628, "closed form": 0.5382}),
    "late d": Contradiction("late fusion, D ~ N^d", {"Table 2": 0.6732, "closed form": 0.8581}),
    "late alpha": Contradiction("late fusion, alpha", {"Table 2": 0.2903, "Fig. 2": 0.2777}),
    "late beta": Contradiction("late fusion, beta", {"Table 2": 0.3383, "Fig. 2": 0.34299}),
    "early alpha": Contradiction("early fusion, alpha", {"Table 2": 0.301, "Fig. 2": 0.30051}),
    "early beta": Contradiction("early fusion, beta", {"Table 2": 0.335, "Fig. 2": 0.33491}),
    "moe a": Contradiction("sparse, N ~ C^a", {"Table 2": 0.361, "closed form": 0.344}),
    "moe c": Contradiction("sparse, L ~ C^c", {"Fig. 26": -0.048, "Fig. 9, Table 2": -0.047, "Fig. 1": -0.0474}),
    "fewest tokens": Contradiction("fewest tokens of a run", {"Table 6": 2.5e9, "Fig. 2 caption": 250e6}),
    "second size": Contradiction("parameters of the second size", {"Table 6": 468e6, "chart labels": 464e6}),
    "late constant": Contradiction("factor of Nv in N(C, D)", {"appendix C": 0.483, "1 - 0.544": 0.456}),
}

UNCHECKED = {
    "P1 Table 2, GPT-3: c -0.048; E of Chinchilla": "another paper's, quoted",
    "P1 Tables 2 and 3: E, alpha, beta of dense models": "A and B are not printed, so no runs can be made from the law",
    "P1 Table 10: MSE, R2, MAE %": "need the 76 runs; used here for the noise of Table 11's check",
    "P1 section 2.1: I/T ratios": "counts of the private mixture; 1.19 / 2.19 = 0.543 agrees with Dv = 0.544 D",
    "NaViL Fig. 6: losses by encoder size": "not printed as numbers, so the 1 % rule is checked on its results only",
    "NaViL: CIDEr by samples; flat optimum over depth": "measurements that nothing else printed implies",
}
"""Printed numbers of scaling that follow from no other printed number -> why."""
