"""The samples that are left to pack, as a histogram over (tokens, patch level) that answers "what fits here?" at once.

Which token sizes are left is an integer with one bit per size, for each patch level and for all levels up to each. The
largest sample that fits is then the highest bit below a mask, and two samples that fill a room exactly are the common
bits of one such set and the mirror image of another.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence

import numpy as np

from megatron_nmm.data.packing.limits import Sizes

UNITS = 128
"""Patch levels of a pack when the corpus has so many different patch counts that each cannot be one."""
EXACT_WORK = 4096
"""Patch counts x multiples of their common divisor in a pack, up to which each count is a level of its own."""

Kind = tuple[int, int]
"""(tokens, patch level) of a sample."""


def patch_levels(patches: Sizes, limit: int) -> tuple[Sizes, int]:
    """[samples] patch level of each sample, and the levels of a pack: samples that fit it by level fit it by patches.

    Levels are multiples of the common divisor of all patch counts, which loses nothing. Where that makes too many, a
    pack has UNITS levels and the patches of a sample are rounded up to one.
    """
    values = np.unique(patches[patches > 0])
    unit = int(np.gcd.reduce(values)) if len(values) else limit
    if len(values) * (limit // unit) <= EXACT_WORK:
        return patches // unit, limit // unit
    return -(-patches * UNITS // limit), UNITS


class Pool:
    """Samples left, by tokens and patch level."""

    def __init__(self, kinds: Sequence[Kind], counts: Sequence[int], tokens: int) -> None:
        """``counts`` samples of each of ``kinds``; no sample has more than ``tokens``."""
        self.left = Counter(dict(zip(kinds, counts, strict=True)))
        self.levels = sorted({level for _, level in kinds})
        self._tokens = tokens
        self._sizes = dict.fromkeys(self.levels, 0)
        for size, level in kinds:
            self._sizes[level] |= 1 << size
        self._up_to: list[int] = []
        self._mirrored: list[int] = []
        for size_set in self._sizes.values():
            self._up_to.append(size_set | (self._up_to[-1] if self._up_to else 0))
        for size_set in self._up_to:
            self._mirrored.append(int(f"{size_set:0{tokens + 1}b}"[::-1], 2))

    def __bool__(self) -> bool:
        return bool(self.left)

    def take(self, kind: Kind, count: int = 1) -> None:
        """Remove samples of one kind."""
        self.left[kind] -= count
        if not self.left[kind]:
            del self.left[kind]
            self._forget(*kind)

    def largest(self, tokens: int, level: int) -> Kind | None:
        """The sample with most tokens, then most patches, that a room of ``tokens`` and ``level`` holds."""
        place = bisect_right(self.levels, level) - 1
        if place < 0:
            return None
        found = self._up_to[place] & ((2 << tokens) - 1)
        return self._highest(found.bit_length() - 1, place) if found else None

    def largest_at(self, tokens: int, level: int) -> Kind | None:
        """The sample of exactly this level with most tokens that a room of ``tokens`` holds."""
        found = self._sizes[level] & ((2 << tokens) - 1)
        return (found.bit_length() - 1, level) if found else None

    def smallest_at(self, level: int) -> int | None:
        """Fewest tokens of the samples of this level; None when there is no sample."""
        found = self._sizes[level]
        return (found & -found).bit_length() - 1 if found else None

    def smallest(self, level: int) -> int | None:
        """Fewest tokens of the samples up to this level; None when there is no sample."""
        place = bisect_right(self.levels, level) - 1
        found = self._up_to[place] if place >= 0 else 0
        return (found & -found).bit_length() - 1 if found else None

    def pair(self, tokens: int, level: int) -> tuple[Kind, Kind] | None:
        """Two samples of exactly ``tokens`` together and at most ``level``; the larger one is as large as can be."""
        best: tuple[Kind, Kind] | None = None
        for one_level in self.levels:
            place = bisect_right(self.levels, level - one_level) - 1
            if place < 0:
                break
            both = self._sizes[one_level] & (self._mirrored[place] >> (self._tokens - tokens))
            while both:
                size = both.bit_length() - 1
                if best is not None and size <= best[0][0]:
                    break
                one, other = (size, one_level), self._highest(tokens - size, place)
                if one != other or self.left[one] >= 2:
                    best = one, other
                    break
                both ^= 1 << size
        return best

    def _highest(self, size: int, place: int) -> Kind:
        """The kind of this size with the highest level up to the one at ``place``; there is one."""
        return next((size, level) for level in self.levels[place::-1] if self._sizes[level] >> size & 1)

    def _forget(self, size: int, level: int) -> None:
        """Clear the bits of a kind of which nothing is left."""
        bit, mirrored_bit = 1 << size, 1 << (self._tokens - size)
        self._sizes[level] ^= bit
        first = self.levels.index(level)
        if first and self._up_to[first - 1] & bit:
            return
        for place in range(first, len(self.levels)):
            if self._sizes[self.levels[place]] & bit:
                return
            self._up_to[place] ^= bit
            self._mirrored[place] ^= mirrored_bit
