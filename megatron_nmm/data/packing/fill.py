"""Chooses the samples of one pack: the largest that is left, its share of images, company, then an exact fit.

Four rules, each against one way to waste room. The largest sample goes first, for small ones fit anywhere. Then come
images until the pack has the share of patches that the samples left have on average, so that neither texts nor images
stay behind alone; then samples until it has its share of their number, so that no length does. Last, the largest that
fit until one or two fill the pack to the last token (after the minimum bin slack heuristic of J. Gupta and J. Ho,
1999).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from megatron_nmm.data.packing.pool import Kind, Pool

REFRESH_WORK = 1024
"""The fewest tokens for each number of patches change slowly: where they take more steps than this to work out, the
same serve several packs."""


@dataclass
class Filler:
    """Fills one pack after another from a pool."""

    pool: Pool
    tokens: int
    """Tokens of a pack."""
    levels: int
    """Patch levels of a pack."""
    _smallest: dict[int, int] = field(default_factory=dict)
    _least: list[int] = field(default_factory=list)
    _age: int = 0

    def fill(self, share: float, company: int) -> list[Kind]:
        """Take the samples of one pack from the pool, at least one.

        ``share`` (0 to 1) of the patches and ``company`` samples are wanted, and given as far as there is room.
        """
        first = self.pool.largest(self.tokens, self.levels)
        assert first is not None, "a pool without samples that fit an empty pack"
        chosen = self._take(first)
        wanted = share * self.levels - first[1]
        if wanted > 0:
            chosen += self._images(wanted, self.tokens - first[0], self.levels - first[1])
        chosen += self._company(company - len(chosen), *self._room(chosen))
        return chosen + self._exact(*self._room(chosen))

    def _images(self, wanted: float, tokens: int, levels: int) -> list[Kind]:
        """Samples with at least ``wanted`` patch levels, or as many as the room has tokens for."""
        chosen: list[Kind] = []
        least = self._least_tokens()
        goals = [total for total in range(levels + 1) if least[total] <= tokens]
        goal = next((total for total in goals if total >= wanted), goals[-1])
        while goal:
            # Leave enough tokens for the images that are still to come.
            fitting = (
                self.pool.largest_at(tokens - least[goal - level], level)
                for level in sorted(self._smallest, reverse=True)
                if level <= goal and least[goal - level] <= tokens
            )
            image = next(filter(None, fitting), None)
            if image is None:
                break
            chosen += self._take(image)
            tokens, goal = tokens - image[0], goal - image[1]
        return chosen

    def _company(self, wanted: int, tokens: int, levels: int) -> list[Kind]:
        """All but the last two of ``wanted`` samples, each as large as leaves room for the others."""
        chosen: list[Kind] = []
        for others in range(wanted - 1, 1, -1):
            smallest = self.pool.smallest(levels)
            if smallest is None or smallest * (others + 1) > tokens:
                break
            kind = self.pool.largest(tokens - others * smallest, levels)
            assert kind is not None, "the smallest sample fits"
            chosen += self._take(kind)
            tokens, levels = tokens - kind[0], levels - kind[1]
        return chosen

    def _exact(self, tokens: int, levels: int) -> list[Kind]:
        """Samples that leave as little of this token room as can be."""
        chosen: list[Kind] = []
        while tokens and (kind := self.pool.largest(tokens, levels)):
            pair = self.pool.pair(tokens, levels) if kind[0] < tokens else None
            if pair:
                return chosen + self._take(*pair)
            chosen += self._take(kind)
            tokens, levels = tokens - kind[0], levels - kind[1]
        return chosen

    def _room(self, chosen: list[Kind]) -> Kind:
        return self.tokens - sum(kind[0] for kind in chosen), self.levels - sum(kind[1] for kind in chosen)

    def _take(self, *kinds: Kind) -> list[Kind]:
        for kind in kinds:
            self.pool.take(kind)
        return list(kinds)

    def _least_tokens(self) -> list[int]:
        """[levels + 1] fewest tokens with which samples of the pool reach each total of patch levels exactly."""
        if self._age % max(1, self.levels * len(self.pool.levels) // REFRESH_WORK) == 0:
            smallest = {level: size for level in self.pool.levels if level and (size := self.pool.smallest_at(level))}
            self._smallest, self._least = smallest, least_tokens(smallest, self.levels, self.tokens + 1)
        self._age += 1
        return self._least


def least_tokens(smallest: Mapping[int, int], levels: int, never: int) -> list[int]:
    """[levels + 1] fewest tokens for each total of levels, from samples of ``smallest[level]`` tokens, any number of
    each; ``never`` where no samples give the total."""
    least = [0] + [never] * levels
    for total in range(1, levels + 1):
        options = [least[total - level] + size for level, size in smallest.items() if level <= total]
        least[total] = min([never, *options])
    return least
