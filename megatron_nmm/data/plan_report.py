"""The figures of a pack plan: how full its packs are, how far from the fewest possible, how even their load."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_nmm.data.packing import Bins, Limits, Sizes, lower_bound, proved_bound


@dataclass(frozen=True)
class Packed:
    """Packs, and what they hold."""

    bins: Bins
    limits: Limits
    sample_tokens: Sizes
    """[packed samples]"""
    sample_patches: Sizes
    """[packed samples]"""
    tokens: Sizes
    """[packs]"""
    patches: Sizes
    """[packs]"""

    @property
    def samples(self) -> Sizes:
        """[packs] samples in each."""
        return np.diff(self.bins.starts)


def measure(bins: Bins, tokens: Sizes, patches: Sizes, limits: Limits) -> Packed:
    """What ``bins`` hold; tokens, patches: [samples] of the whole corpus."""
    packed = bins.samples
    return Packed(bins, limits, tokens[packed], patches[packed], bins.totals(tokens), bins.totals(patches))


def figures(packed: Packed) -> dict[str, Any]:
    """The part of report.json that says how good the packing is.

    ``lower_bound`` is the larger of the two ceil(sum / limit); ``proved_bound`` is what no packing can be below, for
    instance because only three captions fit a pack whatever is left beside them.
    """
    count = len(packed.bins)
    given = packed.sample_tokens, packed.sample_patches, packed.limits
    simple, proved = lower_bound(*given), proved_bound(*given)
    return {
        "packs": count,
        "lower_bound": simple,
        "above_lower_bound": round(count / simple - 1, 6),
        "proved_bound": proved,
        "above_proved_bound": round(count / proved - 1, 6),
        "fill": round(int(packed.tokens.sum()) / (count * packed.limits.tokens), 6),
        "samples_per_pack": {"mean": round(float(packed.samples.mean()), 3), **spread(packed.samples)},
        "patches": spread(packed.patches),
    }


def spread(values: npt.NDArray[np.int64]) -> dict[str, int]:
    """Median, 99th percentile and largest of values, each one of them."""
    median, high = np.percentile(values, [50, 99], method="inverted_cdf").tolist()
    return {"p50": int(median), "p99": int(high), "max": int(values.max())}
