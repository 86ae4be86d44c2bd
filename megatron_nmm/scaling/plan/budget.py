"""What the next training run should be: the best N and D of each family for a budget, a number of tokens or a size.

Every figure comes with the 95 % interval over the bootstrap laws of its fit, where the fit has them. Of a sparse model
N is what a token meets; all parameters follow the line of the study's models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_nmm.scaling.estimate import Estimate
from megatron_nmm.scaling.law import Fitted, Law
from megatron_nmm.scaling.papers import published
from megatron_nmm.scaling.papers.laws import STUDY, frontier
from megatron_nmm.scaling.plan.optimum import Cost, Optima, losses, of_flops, of_parameters, of_tokens

FAR = 3.0
"""A plan beyond a fit's range by more than this factor is warned about."""
FACTORS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Times the best number of tokens for a size, at which its loss is told."""
ENCODER_STEP = 2.0
"""NaViL tries encoders in steps of this factor, so it knows the best one to half a step each way."""


@dataclass(frozen=True)
class Option:
    """One family's best run."""

    fitted: Fitted
    flops: Estimate
    """C; without an interval where it is given."""
    parameters: Estimate
    tokens: Estimate
    loss: Estimate
    draws: NDArray[np.float64]
    """Losses of the bootstrap laws, each at its own best run."""

    @property
    def family(self) -> str:
        """Of the fit."""
        return self.fitted.family

    @property
    def total(self) -> float:
        """All parameters."""
        slope, intercept = self.fitted.total
        return max(slope * self.parameters.value + intercept, self.parameters.value)

    @property
    def vision(self) -> float:
        """Nv of that N."""
        return float(Cost.of(self.fitted).vision(np.array([self.parameters.value]))[0])

    @property
    def ranked(self) -> Estimate:
        """The loss by which families are compared.

        Of the paper it is the published frontier, for the dense laws are approximations; the interval is then the mean
        error of the paper's fits (Table 10) each way, for it publishes no more.
        """
        line = frontier(self.family) if self.fitted.study == STUDY else None
        if line is None:
            return self.loss
        loss = line.loss(self.flops.value)
        error = published.TABLE_10["held in"][2] / 100 * loss
        return Estimate(loss, loss - error, loss + error)

    @property
    def encoder(self) -> Estimate:
        """Best encoder by NaViL's rule for a language model as large as what this one has besides its encoder."""
        size = encoder_size(self.parameters.value - self.vision)
        return Estimate(size, size / ENCODER_STEP**0.5, size * ENCODER_STEP**0.5)


@dataclass(frozen=True)
class Difference:
    """How much lower the best family's loss is than the next one's."""

    best: Option
    second: Option
    gain: Estimate

    @property
    def certain(self) -> bool | None:
        """Whether the interval leaves zero out; None without an interval."""
        return None if self.gain.low is None else self.gain.low > 0


@dataclass(frozen=True)
class Trained:
    """A model of a given size trained to a number of tokens."""

    factor: float
    """Tokens over the best number for this size: above 1 it is overtrained, as a model that serves much should be."""
    tokens: float
    flops: float
    loss: Estimate
    best_loss: float
    """Of the best model for the same FLOPs."""

    @property
    def paid(self) -> float:
        """Loss given up for the size."""
        return self.loss.value - self.best_loss


def for_flops(fitted: Fitted, flops: float) -> Option:
    """The best run of a budget."""
    return _option(fitted, lambda laws, cost: of_flops(laws, cost, flops), flops=flops)


def for_tokens(fitted: Fitted, tokens: float) -> Option:
    """The run for which ``tokens`` is the best number."""
    return _option(fitted, lambda laws, cost: of_tokens(laws, cost, tokens), tokens=tokens)


def for_parameters(fitted: Fitted, parameters: float) -> Option:
    """The run for which N = ``parameters`` is the best size."""
    return _option(fitted, lambda laws, cost: of_parameters(laws, cost, parameters), parameters=parameters)


def trained(fitted: Fitted, parameters: float, tokens: float) -> Trained:
    """What comes of a size and a number of tokens, beside the best model of the same budget."""
    cost = Cost.of(fitted)
    flops = float(cost.flops(np.array([parameters]))[0]) * tokens
    value = float(losses([fitted.law], parameters, tokens)[0])
    draws = losses(fitted.samples, parameters, tokens) if fitted.samples else np.zeros(0)
    best = of_flops([fitted.law], cost, flops)
    own = of_parameters([fitted.law], cost, parameters)
    return Trained(tokens / float(own.tokens[0]), tokens, flops, Estimate.of(value, draws), float(best.losses[0]))


def overtrained(fitted: Fitted, parameters: float) -> tuple[Trained, ...]:
    """``trained`` at the best number of tokens for that size times each of ``FACTORS``."""
    best = for_parameters(fitted, parameters).tokens.value
    return tuple(trained(fitted, parameters, factor * best) for factor in FACTORS)


def difference(options: Sequence[Option]) -> Difference | None:
    """The best family against the second best; None of one family alone.

    Of fits with bootstrap laws, the interval is over all pairs of them: families are resampled apart. Of the paper it
    is the interval of the best one's loss.
    """
    if len(options) < 2:
        return None
    best, second = sorted(options, key=lambda option: option.ranked.value)[:2]
    gain = second.ranked.value - best.ranked.value
    if best.fitted.study == STUDY and best.ranked.high is not None:
        error = best.ranked.high - best.ranked.value
        return Difference(best, second, Estimate(gain, gain - error, gain + error))
    draws = (second.draws[:, None] - best.draws[None, :]).ravel()
    return Difference(best, second, Estimate.of(gain, draws))


def encoder_size(language_model: float) -> float:
    """Parameters of the best encoder for a language model (NaViL Fig. 7; the line through its three points)."""
    scale, slope, _ = published.ENCODER_LINE
    return float(1e9 * scale * (language_model / 1e9) ** slope)


def extrapolations(option: Option) -> list[tuple[str, float]]:
    """(quantity, factor) by which the plan leaves the range of the fit's runs, where it is more than ``FAR``."""
    planned = {"flops": option.flops, "parameters": option.parameters, "tokens": option.tokens}
    found = []
    for name, (low, high) in option.fitted.ranges.items():
        value = planned[name].value
        factor = max(value / high, low / value)
        if factor > FAR:
            found.append((name, factor))
    return found


def _option(fitted: Fitted, best: Callable[[Sequence[Law], Cost], Optima], **given: float) -> Option:
    """``given``: what the question fixes, which then has no interval."""
    cost = Cost.of(fitted)
    one = best([fitted.law], cost)
    many = best(fitted.samples, cost) if fitted.samples else None

    def estimate(name: str) -> Estimate:
        if name in given:
            return Estimate(given[name])
        draws = getattr(many, name) if many else np.zeros(0)
        return Estimate.of(float(getattr(one, name)[0]), draws)

    draws = many.losses if many else np.zeros(0)
    return Option(fitted, estimate("flops"), estimate("parameters"), estimate("tokens"), estimate("losses"), draws)
