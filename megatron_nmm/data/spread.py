"""A shuffled order in which every stretch looks like the whole: no stretch is rich in full, or in crowded, packs.

Packs sorted by what they hold are halved again and again; the visits of a part alternate between its halves, and a hash
decides which half comes first. So any 2^k visits in line take one pack of each 2^k-th of the sorted packs. This is the
van der Corput sequence under Owen's scrambling (A. Owen, 1995) for any number of packs: a plain shuffle would be off by
the square root of the number of visits, which is more than 0.1 % of 10,000 packs whose sample counts differ.
"""

import hashlib

import numpy as np
import numpy.typing as npt

_MASK = 0xFFFF_FFFF_FFFF_FFFF
_GOLDEN = 0x9E37_79B9_7F4A_7C15
"""2^64 / golden ratio: SplitMix64's step."""


class Spread:
    """A bijection of the packs of a source, chosen by ``key``."""

    def __init__(self, ranked: npt.NDArray[np.integer], *key: int) -> None:
        """``ranked``: [packs] numbers of the packs, in order of what they hold."""
        self._ranked = ranked
        self._key = int.from_bytes(hashlib.sha256(repr(("spread", *key)).encode()).digest()[:8], "little")

    def __getitem__(self, visit: int) -> int:
        """The pack of one visit."""
        first, size = 0, len(self._ranked)
        part, key = 1, self._key
        while size > 1:
            # The part's own coin: which half is visited first, and so has the odd pack.
            early = _mix((key + part * _GOLDEN) & _MASK) & 1
            later = visit & 1
            low = (size + 1 - early) // 2
            upper = early ^ later
            if upper:
                first, size = first + low, size - low
            else:
                size = low
            part, visit = 2 * part + upper, visit >> 1
        return int(self._ranked[first])


def ranking(counts: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """[packs] pack numbers in order of their counts; equal ones in the order of the plan."""
    return np.argsort(counts, kind="stable")


def _mix(value: int) -> int:
    """The finaliser of SplitMix64 (G. Steele et al., 2014)."""
    value = ((value ^ (value >> 30)) * 0xBF58_476D_1CE4_E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D0_49BB_1331_11EB) & _MASK
    return value ^ (value >> 31)
