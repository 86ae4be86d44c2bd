"""What packing takes and gives: the limits of a pack, and the packs as two arrays instead of a million lists."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Sizes = npt.NDArray[np.int64]
"""[samples] tokens or patches of each sample."""


@dataclass(frozen=True)
class Limits:
    """What one pack holds at most."""

    tokens: int
    patches: int | None = None
    """None = no limit."""


@dataclass(frozen=True)
class Bins:
    """Packs of sample numbers."""

    samples: npt.NDArray[np.int64]
    """[samples] numbers, pack after pack."""
    starts: npt.NDArray[np.int64]
    """[packs + 1] where each pack begins in ``samples``."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, pack: int) -> npt.NDArray[np.int64]:
        """Sample numbers of one pack."""
        return self.samples[self.starts[pack] : self.starts[pack + 1]]

    def totals(self, sizes: Sizes) -> Sizes:
        """[packs] sum of ``sizes`` over the samples of each pack."""
        sums = np.concatenate([[0], np.cumsum(sizes[self.samples])])
        totals: Sizes = sums[self.starts[1:]] - sums[self.starts[:-1]]
        return totals
