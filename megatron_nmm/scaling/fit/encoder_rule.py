"""Which encoder fits which LLM: the smallest that doubling would hardly improve, and a line through those sizes.

NaViL section 3.3: the best encoder is the smallest s with loss(s) - loss(2s) < 1 % of the smallest encoder's loss
(75M there), and log s grows in a line with the logarithm of the LLM's size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from megatron_nmm.errors import ConfigError
from megatron_nmm.scaling.fit.objective import Array
from megatron_nmm.scaling.fit.quality import groups
from megatron_nmm.scaling.law import Interval
from megatron_nmm.scaling.point import AVERAGE, Point

TOLERANCE = 0.01


@dataclass(frozen=True)
class BestEncoder:
    """Of one LLM."""

    llm: float
    encoder: float
    settled: bool
    """False where even the largest encoder that can be judged still gained: the best one is at least this large."""


@dataclass(frozen=True)
class Line:
    """s = scale (LLM / 1e9)^slope, s in parameters."""

    scale: float
    slope: float
    interval: Interval
    """95 % of the slope from the regression's t distribution; of two LLMs, nothing is known and it is infinite."""

    def encoder(self, llm: float) -> float:
        """Parameters of the encoder for an LLM of ``llm``."""
        return float(self.scale * (llm / 1e9) ** self.slope)


def smallest_enough(losses: Mapping[float, float], tolerance: float = TOLERANCE) -> tuple[float, bool]:
    """(size, whether the rule was met) over losses by encoder size; raises ConfigError on fewer than two sizes.

    loss(2s) of a size that was not trained is read off the line between its neighbours over log s.
    """
    sizes = np.array(sorted(losses))
    if sizes.size < 2 or sizes[-1] < 1.9 * sizes[0]:
        raise ConfigError(
            f"encoders of {', '.join(f'{s / 1e6:,.0f}M' for s in sizes)} cannot be doubled within the study; "
            "train at least two sizes, one twice the other"
        )
    values = np.array([losses[size] for size in sizes])
    judged = [size for size in sizes if 1.9 * size <= sizes[-1]]
    for size in judged:
        doubled = float(np.interp(np.log(2.0 * size), np.log(sizes), values))
        if losses[size] - doubled < tolerance * values[0]:
            return float(size), True
    return float(sizes[-1]), False


def best_encoders(
    points: Sequence[Point], kind: str = AVERAGE, tolerance: float = TOLERANCE
) -> tuple[BestEncoder, ...]:
    """The best encoder of each LLM, over runs with an encoder and the most tokens that all of one LLM's share."""
    with_encoder = [point for point in points if point.vision > 0]
    if not with_encoder:
        raise ConfigError("no run of the study has an encoder, so no best one can be told; sweep family late or navil")
    numbers = groups([point.text for point in with_encoder])
    found = []
    for number in np.unique(numbers):
        mine = [point for point, other in zip(with_encoder, numbers, strict=True) if other == number]
        size, settled = smallest_enough(_by_encoder(mine, kind), tolerance)
        found.append(BestEncoder(float(np.median([point.text for point in mine])), size, settled))
    return tuple(found)


def _by_encoder(points: Sequence[Point], kind: str) -> dict[float, float]:
    """Mean loss by encoder size at the token count that most encoders share, of those the largest."""
    lengths = groups([point.tokens for point in points])
    by_length = {
        length: [point for point, other in zip(points, lengths, strict=True) if other == length]
        for length in np.unique(lengths)
    }
    chosen = max(by_length, key=lambda length: (len({p.vision for p in by_length[length]}), length))
    losses: dict[float, list[float]] = {}
    for point in by_length[chosen]:
        losses.setdefault(point.vision, []).append(point.loss(kind))
    return {size: float(np.mean(values)) for size, values in losses.items()}


def line(llms: Sequence[float] | Array, encoders: Sequence[float] | Array) -> Line:
    """The log-log line through best encoders; raises ConfigError on fewer than two LLMs."""
    from scipy.stats import linregress, t

    if len(set(llms)) < 2:
        raise ConfigError(f"a line needs encoders for at least two LLMs, this study has {len(set(llms))}; sweep more")
    found = linregress(np.log(np.asarray(llms, dtype=float) / 1e9), np.log(np.asarray(encoders, dtype=float)))
    degrees = len(llms) - 2
    error = float(found.stderr) if degrees else np.inf
    reach = float(t.ppf(0.975, degrees)) * error if degrees else np.inf
    slope = float(found.slope)
    return Line(float(np.exp(found.intercept)), slope, Interval(slope - reach, slope + reach, error))
