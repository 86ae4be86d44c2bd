"""From the weights of a mixture to whole numbers of packs: temperature, what a weight counts, and rounding.

A weight counts packs, tokens or samples. A source with share w of the tokens and t tokens in its mean pack has w / t of
the packs, up to a common factor; the arithmetic is exact until the shares are rounded to a table of ``MAX_PERIOD``.
"""

import math
import sys
from collections.abc import Sequence
from fractions import Fraction

from megatron_nmm.errors import ConfigError

MAX_PERIOD = 1 << 16
"""Longest table of source choices; shares whose common denominator is larger are rounded to multiples of 1 / this."""

_EXACT_BITS = 64
"""Longest denominator taken exactly; beyond it the common denominator of many sources would grow without bound."""


def tempered(weights: Sequence[float], temperature: float) -> tuple[float, ...]:
    """``weights`` to the power 1 / temperature, the largest one 1; as given at temperature 1.

    Above 1 the shares come closer to each other, below 1 they move apart. Raises ConfigError unless every weight and
    the temperature are positive numbers.
    """
    for source, weight in enumerate(weights):
        if not (math.isfinite(weight) and weight > 0):
            raise ConfigError(
                f"source {source} of the mixture has weight {weight}, and a weight must be a number above 0; set "
                f"data.train.{source}.weight, or leave the source out"
            )
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(
            f"data.temperature {temperature} must be a number above 0; use 1 for the weights as they are given"
        )
    if temperature == 1:
        return tuple(float(weight) for weight in weights)
    largest = max(weights)
    # Nothing that was asked for may vanish: the smallest positive number keeps its place in the table.
    return tuple(max(sys.float_info.min, (weight / largest) ** (1 / temperature)) for weight in weights)


def pack_shares(weights: Sequence[float], units: Sequence[int], packs: Sequence[int]) -> tuple[int, ...]:
    """Relative shares of packs that give relative shares ``weights`` of what ``units`` counts, as whole numbers.

    units: tokens, samples or packs in each source; packs: how many packs they stand in. All positive.
    """
    return whole_shares(
        [Fraction(repr(float(w))) * count / unit for w, unit, count in zip(weights, units, packs, strict=True)]
    )


def whole_shares(shares: Sequence[Fraction]) -> tuple[int, ...]:
    """The smallest whole numbers in the ratio of positive ``shares``, or rounded to about MAX_PERIOD in sum."""
    total = sum(shares)
    if all(share.denominator.bit_length() <= _EXACT_BITS for share in shares):
        common = math.lcm(*(share.denominator for share in shares))
        exact = [int(share * common) for share in shares]
        divisor = math.gcd(*exact)
        if sum(exact) // divisor <= MAX_PERIOD:
            return tuple(share // divisor for share in exact)
    # A source that is asked for at all keeps at least one place in the table.
    return tuple(max(1, round(share * MAX_PERIOD / total)) for share in shares)
