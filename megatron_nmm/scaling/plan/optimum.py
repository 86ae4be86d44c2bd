"""Where a law's loss is least: the best N and D of a budget, of a number of tokens, and of a size of model.

A model's ``Cost`` says what a token takes. Early fusion costs ``6 N`` FLOPs a token, and then ``Law.optimum`` is the
closed form. An encoder of Nv parameters sees the image tokens alone: ``6 (N - (1 - share) Nv)`` a token (P1 section
2.1), with Nv linear in N (P1 appendix C), and there is no closed form. But the slope of the loss along a line of equal
FLOPs is zero where ``alpha A N^-alpha = beta B D^-beta e``, with ``e = d log cost / d log N``. That gives D of N; it
grows with N, so N of anything else is found by halving an interval.

Shapes: S laws, each with five coefficients.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_nmm.scaling.law import PARAMETERS, Fitted, Law

Array = NDArray[np.float64]

HALVINGS = 80
"""Of the interval below: its ends are then closer than doubles tell apart."""
SIZES = (1.0, 1e18)
"""Parameters between which an optimum is looked for."""


@dataclass(frozen=True)
class Cost:
    """What a token takes in the models of a study."""

    share: float = 0.0
    """Dv / D."""
    encoder: tuple[float, float] = (0.0, 0.0)
    """Nv = slope N + intercept."""

    @staticmethod
    def of(fitted: Fitted) -> "Cost":
        """As the fit's study has it."""
        return Cost(fitted.vision_share, fitted.encoder)

    def vision(self, parameters: Array) -> Array:
        """Nv; never negative, and never more than nine tenths of the model."""
        slope, intercept = self.encoder
        return np.clip(slope * parameters + intercept, 0.0, 0.9 * parameters)

    def flops(self, parameters: Array) -> Array:
        """Training FLOPs of one token."""
        return 6.0 * (parameters - (1.0 - self.share) * self.vision(parameters))

    def elasticity(self, parameters: Array) -> Array:
        """``d log cost / d log N``; 1 without an encoder."""
        step = 1e-4
        above, below = self.flops(parameters * np.exp(step)), self.flops(parameters * np.exp(-step))
        return np.asarray(np.log(above / below) / (2 * step))


@dataclass(frozen=True)
class Optima:
    """The best training run of each of S laws."""

    parameters: Array
    tokens: Array
    flops: Array
    losses: Array


def of_flops(laws: Sequence[Law], cost: Cost, flops: float) -> Optima:
    """The N and D of least loss that cost ``flops``."""
    return _where(laws, cost, lambda n, d: cost.flops(n) * d, flops)


def of_tokens(laws: Sequence[Law], cost: Cost, tokens: float) -> Optima:
    """The run whose budget is spent best with D = ``tokens``."""
    return _where(laws, cost, lambda n, d: d, tokens)


def of_parameters(laws: Sequence[Law], cost: Cost, parameters: float) -> Optima:
    """The run whose budget is spent best with N = ``parameters``."""
    return _at(_stack(laws), cost, np.full(len(laws), parameters))


def tokens_for(fitted: Fitted, parameters: float, flops: float) -> float:
    """D that ``flops`` pay for in a model of that N."""
    return flops / float(Cost.of(fitted).flops(np.array([parameters]))[0])


def losses(laws: Sequence[Law], parameters: float | Array, tokens: float | Array) -> Array:
    """What each law says of that N and D, S values; arrays of N and D have S values, too."""
    return _loss(_stack(laws), np.asarray(parameters, dtype=float), np.asarray(tokens, dtype=float))


def _where(laws: Sequence[Law], cost: Cost, quantity: Callable[[Array, Array], Array], target: float) -> Optima:
    """The optima at which ``quantity(N, D)``, which grows with N, is ``target``."""
    coefficients_5S = _stack(laws)
    low, high = (np.full(len(laws), np.log(size)) for size in SIZES)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        n = np.exp(middle)
        enough = quantity(n, _tokens(coefficients_5S, cost, n)) >= target
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return _at(coefficients_5S, cost, np.exp((low + high) / 2))


def _at(coefficients_5S: Array, cost: Cost, parameters: Array) -> Optima:
    tokens = _tokens(coefficients_5S, cost, parameters)
    return Optima(parameters, tokens, cost.flops(parameters) * tokens, _loss(coefficients_5S, parameters, tokens))


def _tokens(coefficients_5S: Array, cost: Cost, parameters: Array) -> Array:
    """D that belongs to each N on its law's path of best runs."""
    _, a, b, alpha, beta = coefficients_5S
    with np.errstate(over="ignore", divide="ignore"):
        logs = np.log(beta * b * cost.elasticity(parameters) / (alpha * a)) + alpha * np.log(parameters)
        return np.asarray(np.exp(np.clip(logs / beta, -700.0, 700.0)))


def _loss(coefficients_5S: Array, parameters: Array, tokens: Array) -> Array:
    e, a, b, alpha, beta = coefficients_5S
    return np.asarray(e + a * parameters**-alpha + b * tokens**-beta)


def _stack(laws: Sequence[Law]) -> Array:
    return np.array([[getattr(law, name) for law in laws] for name in PARAMETERS], dtype=float)
