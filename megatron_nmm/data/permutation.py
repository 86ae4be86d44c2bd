"""A shuffled order of any size that needs no memory: element ``i`` is worked out from the key alone.

A four-round Feistel network over the smallest even number of bits that holds the size, walked until it lands inside
(M. Luby and C. Rackoff, 1988; J. Black and P. Rogaway, 2002). The arithmetic is defined here and nowhere else, so an
order written into a run's ledger stays the same under every version of every library.
"""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

_MASK = 0xFFFF_FFFF_FFFF_FFFF
_ROUNDS = 4


class Permutation:
    """A bijection of ``range(size)`` chosen by ``key`` (any integers)."""

    def __init__(self, size: int, *key: int) -> None:
        assert size >= 1, f"a permutation of {size} elements"
        self.size = size
        self._half = max(1, -(-(size - 1).bit_length() // 2))
        digest = hashlib.sha256(repr(key).encode()).digest()
        self._keys = [int.from_bytes(digest[8 * r : 8 * r + 8], "little") for r in range(_ROUNDS)]

    def __getitem__(self, index: int) -> int:
        """The element at place ``index``."""
        value: int = self._encrypt(index)
        while value >= self.size:
            value = self._encrypt(value)
        return value

    def all(self) -> npt.NDArray[np.int64]:
        """[size] the whole order at once."""
        values: npt.NDArray[np.uint64] = self._encrypt(np.arange(self.size, dtype=np.uint64))
        while (outside := values >= self.size).any():
            values[outside] = self._encrypt(values[outside])
        return values.astype(np.int64)

    def _encrypt(self, value: Any) -> Any:
        """One pass through the network, of a Python integer or of an array of uint64: the expressions are the same."""
        mask = (1 << self._half) - 1
        left, right = value >> self._half, value & mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return (left << self._half) | right


def _mix(value: Any) -> Any:
    """The finaliser of SplitMix64 (G. Steele et al., 2014): every input bit moves every output bit."""
    value = ((value ^ (value >> 30)) * 0xBF58_476D_1CE4_E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D0_49BB_1331_11EB) & _MASK
    return value ^ (value >> 31)
