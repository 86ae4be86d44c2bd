"""How many packs no packing can do without, each bound for one reason why packs cannot be filled to the brim.

All are sums of prices: when samples have prices such that no possible pack is worth more than 1, any packing needs at
least as many packs as all samples are worth together (linear programming duality; P. Gilmore and R. Gomory, 1961).
"""

from fractions import Fraction
from math import ceil

import numpy as np
import numpy.typing as npt

from megatron_nmm.data.packing.fill import least_tokens
from megatron_nmm.data.packing.limits import Limits, Sizes
from megatron_nmm.data.packing.pool import EXACT_WORK, UNITS

MOST_PARTS = 64
"""Largest k for which "k samples to a pack" is tried."""
STEPS = 16
SLOPES = (*range(16, 64), *(2**power for power in range(6, 11)))
"""Slopes that ``by_sharing`` tries, in sixteenths."""


def lower_bound(tokens: Sizes, patches: Sizes, limits: Limits) -> int:
    """Each limit alone, filled to the brim: the larger of the two ceil(sum / limit)."""
    by_tokens = -(-int(tokens.sum()) // limits.tokens)
    by_patches = -(-int(patches.sum()) // limits.patches) if limits.patches is not None else 0
    return max(by_tokens, by_patches)


def proved_bound(tokens: Sizes, patches: Sizes, limits: Limits) -> int:
    """The largest bound known here, never below ``lower_bound``."""
    by_one = (by_parts, by_sharing, by_large)
    bounds = [lower_bound(tokens, patches, limits), *(bound(tokens, limits.tokens) for bound in by_one)]
    if limits.patches is not None and patches.any():
        bounds += [bound(patches, limits.patches) for bound in by_one]
        bounds.append(by_crowding(tokens, patches, limits.tokens, limits.patches))
    return max(bounds)


def by_parts(sizes: Sizes, limit: int) -> int:
    """Samples of more than 1 / (k + 1) of a pack: no more than k of them share one.

    Prices floor((k + 1) x) / k for a sample of share x, or x where (k + 1) x is whole (dual feasible function u^(k) of
    S. Fekete and J. Schepers, 2001).
    """
    counts = np.bincount(sizes)
    values = np.flatnonzero(counts)
    counts = counts[values]
    best = Fraction(0)
    for parts in range(1, MOST_PARTS):
        whole = (parts + 1) * values % limit == 0
        worth = Fraction(int((values * counts)[whole].sum()), limit)
        worth += Fraction(int(((parts + 1) * values // limit * counts)[~whole].sum()), parts)
        best = max(best, worth)
    return ceil(best)


def by_sharing(sizes: Sizes, limit: int) -> int:
    """Packs of k samples or fewer, however large these are, and packs of more, whose samples are small on average.

    A sample of share x is worth ``offset + slope x``, but no less than 0 and no more than 1 / k, with (k + 1) offset +
    slope = 1 and offset <= 0. Then k samples are worth 1 at most for each is worth 1 / k, and more are, for their
    shares add up to 1 at most. Every k and slope give a bound; captions that go 7 to a pack, or 6 if they are long, are
    what it is for.
    """
    counts = np.bincount(sizes)
    values = np.flatnonzero(counts)
    counts = counts[values]
    best = Fraction(0)
    for parts in range(1, MOST_PARTS):
        # All in units of 1 / (parts (parts + 1) limit STEPS), so that sums are exact.
        slopes = np.array(SLOPES, dtype=np.int64)[:, None]
        line = parts * limit * (STEPS - slopes) + parts * (parts + 1) * slopes * values
        worth = np.clip(line, 0, (parts + 1) * limit * STEPS) @ counts
        best = max(best, Fraction(int(worth.max(initial=0)), parts * (parts + 1) * limit * STEPS))
    return ceil(best)


def by_large(sizes: Sizes, limit: int) -> int:
    """Samples that leave less than e, for which those smaller than e are not counted (bound L2 of S. Martello and
    P. Toth, 1990), for every e up to half a pack."""
    counts = np.bincount(sizes, minlength=limit + 1)
    number = np.concatenate([[0], np.cumsum(counts)])
    total = np.concatenate([[0], np.cumsum(counts * np.arange(limit + 1))])
    least = np.arange(1, limit // 2 + 1)
    worth = (number[-1] - number[limit - least + 1]) * limit + total[limit - least + 1] - total[least]
    return -(-int(worth.max(initial=0)) // limit)


def by_crowding(tokens: Sizes, patches: Sizes, limit: int, patch_limit: int) -> int:
    """Long texts that leave no room for the images which would fill the patches of their pack.

    A sample is worth the patches it has, or those it keeps out of the pack if they are more. What a pack is worth at
    most is found by filling one, samples taken for their patches and for those they keep out.
    """
    levels, most = _floor_levels(patches, patch_limit)
    smallest = {int(level): int(tokens[levels == level].min()) for level in np.unique(levels[levels > 0])}
    least = least_tokens(smallest, most, limit + 1)
    room_for = np.zeros(limit + 1, dtype=np.int64)
    for total, size in enumerate(least):
        room_for[size : limit + 1] = np.maximum(room_for[size : limit + 1], total)
    kept_out = room_for[limit] - room_for[::-1]
    most_worth = int((_most_kept_out(kept_out) + room_for[::-1]).max())
    return -(-int(np.maximum(levels, kept_out[tokens]).sum()) // max(1, most_worth))


def _floor_levels(patches: Sizes, limit: int) -> tuple[Sizes, int]:
    """Patch counts in units of which a pack holds a whole number, rounded down: what does not fit so does not fit."""
    values = np.unique(patches[patches > 0])
    unit = int(np.gcd.reduce(values))
    if len(values) * (limit // unit) > EXACT_WORK:
        unit = -(-limit // UNITS)
    return patches // unit, limit // unit


def _most_kept_out(kept_out: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[limit + 1] the most that samples of no more than so many tokens together keep out, each counted alone."""
    values = np.unique(kept_out[kept_out > 0])
    sizes = np.searchsorted(kept_out, values)
    most = np.zeros(len(kept_out), dtype=np.int64)
    for tokens in range(int(sizes.min(initial=len(kept_out))), len(kept_out)):
        usable = int(np.searchsorted(sizes, tokens, side="right"))
        most[tokens] = max(most[tokens - 1], (values[:usable] + most[tokens - sizes[:usable]]).max())
    return most
