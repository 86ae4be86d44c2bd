"""Packs all samples: chooses the content of one pack, repeats it as often as equal samples allow, and goes on.

The cost follows the number of different (tokens, patches) in the corpus, more than the number of samples.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from megatron_nmm.data.packing.bounds import proved_bound
from megatron_nmm.data.packing.fill import Filler
from megatron_nmm.data.packing.limits import Bins, Limits, Sizes
from megatron_nmm.data.packing.pool import Kind, Pool, patch_levels

Tell = Callable[[int], None]
"""Takes how many samples are packed so far; starts again when another way of packing is tried."""

COMPANY = (1.0, 0.5, 0.0)
"""Ways of packing: which part of the mean number of samples every pack should have. Even packs make even batches, and
leave no length over alone; but where small samples are rare, the large ones must not have them."""
CLOSE = 1.001
"""Packs over the proved bound at which nothing more is tried."""


def pack(tokens: Sizes, patches: Sizes, limits: Limits, tell: Tell | None = None) -> Bins:
    """Packs that hold every sample once; each sample must have a token and fit an empty pack.

    tokens, patches: [samples] sizes. Samples of equal size are used in the order given. Ways of packing are tried until
    one comes close to the proved bound or the next one is no better; the one with fewest packs is taken.
    """
    assert (tokens >= 1).all() and (tokens <= limits.tokens).all(), "a sample without tokens or larger than a pack"
    if limits.patches is None:
        # The patches do not matter, and samples of equal length are of one kind.
        levels, most = np.zeros_like(patches), 0
    else:
        levels, most = patch_levels(patches, limits.patches)
    assert (levels <= most).all(), "a sample with more patches than a pack"
    enough = proved_bound(tokens, patches, limits) * CLOSE
    tried: list[Bins] = []
    for company in COMPANY:
        tried.append(_pack(_Stock(tokens, levels), limits.tokens, most, company, tell or _silent))
        if len(tried[-1]) <= enough or (len(tried) > 1 and len(tried[-1]) >= len(tried[-2])):
            break
    return min(tried, key=len)


def _pack(stock: "_Stock", tokens: int, levels: int, company: float, tell: Tell) -> Bins:
    """One way of packing: every pack is to have ``company`` times the mean number of samples."""
    pool = Pool(stock.kinds, stock.counts, tokens)
    filler = Filler(pool, tokens, levels)
    left = np.array([[*kind, 1] for kind in stock.kinds]).reshape(-1, 3).T @ np.array(stock.counts, dtype=np.int64)
    while pool:
        packs = int(left[0]) / tokens
        share = min(1.0, int(left[1]) / levels / packs) if levels else 0.0
        pattern = Counter(filler.fill(share, int(company * int(left[2]) / packs)))
        more = min(pool.left[kind] // count for kind, count in pattern.items())
        for kind, count in pattern.items():
            if more:
                pool.take(kind, more * count)
            left -= np.array([*kind, 1]) * count * (more + 1)
        stock.draw(pattern, more + 1)
        tell(stock.drawn)
    return stock.bins()


def _silent(drawn: int) -> None:
    """Progress that nobody watches."""


class _Stock:
    """The sample numbers of each kind, and the packs drawn from them."""

    def __init__(self, tokens: Sizes, levels: Sizes) -> None:
        order = np.lexsort((levels, tokens))
        sizes = np.stack([tokens[order], levels[order]], axis=1)
        starts = np.flatnonzero(np.r_[len(sizes) > 0, (sizes[1:] != sizes[:-1]).any(axis=1)])
        self.kinds: list[Kind] = [(size, level) for size, level in sizes[starts].tolist()]
        self.counts: list[int] = np.diff(np.r_[starts, len(order)]).tolist()
        self.drawn = 0
        self._order: npt.NDArray[np.int64] = order
        self._next = dict(zip(self.kinds, starts.tolist(), strict=True))
        self._packs: list[npt.NDArray[np.int64]] = []
        self._lengths: list[npt.NDArray[np.int64]] = []

    def draw(self, pattern: Counter[Kind], packs: int) -> None:
        """Fill ``packs`` packs with ``pattern``: how many samples of each kind."""
        columns = []
        for kind, count in pattern.items():
            start = self._next[kind]
            self._next[kind] = start + packs * count
            columns.append(self._order[start : start + packs * count].reshape(packs, count))
        drawn = np.concatenate(columns, axis=1)
        self._packs.append(drawn.ravel())
        self._lengths.append(np.full(packs, drawn.shape[1], dtype=np.int64))
        self.drawn += drawn.size

    def bins(self) -> Bins:
        """All packs drawn."""
        none = [np.zeros(0, dtype=np.int64)]
        starts = np.concatenate([[0], np.cumsum(np.concatenate(none + self._lengths))])
        return Bins(np.concatenate(none + self._packs), starts)
