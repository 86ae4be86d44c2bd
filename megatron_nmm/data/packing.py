"""Best-fit-decreasing bin packing under two limits, tokens and patches, whose cost follows the distinct sizes.

Samples of equal (tokens, patches) are one class, packs of equal room are one group. Classes are placed largest first,
each into the group with the least token room that holds it, as many samples and packs at once as fit: a million samples
take as many steps as they have different sizes, not a million.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Bins = list[list[int]]
"""Sample numbers of each pack."""


@dataclass(frozen=True)
class Limits:
    """What one pack holds at most."""

    tokens: int
    patches: int | None = None
    """None = no limit."""


@dataclass
class _Packs:
    """Open packs grouped by their room (tokens, patches)."""

    best: "_BestRoom"
    groups: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    patch_rooms: dict[int, list[int]] = field(default_factory=dict)
    """Token room -> patch rooms of the groups with that token room, ascending."""

    def put(self, tokens: int, patches: int, packs: list[int]) -> None:
        """Add packs with this room."""
        group = self.groups.get((tokens, patches))
        if group is not None:
            group.extend(packs)
            return
        self.groups[tokens, patches] = list(packs)
        insort(self.patch_rooms.setdefault(tokens, []), patches)
        self.best.set(tokens, self.patch_rooms[tokens][-1])

    def find(self, tokens: int, patches: int) -> tuple[int, int] | None:
        """The group with the least token room, then patch room, that holds a sample of this size."""
        room = self.best.first(tokens, patches)
        if room is None:
            return None
        rooms = self.patch_rooms[room]
        return room, rooms[bisect_left(rooms, patches)]

    def take(self, room: tuple[int, int], count: int) -> list[int]:
        """Remove ``count`` packs from a group, all of them if it has fewer."""
        group = self.groups[room]
        if count < len(group):
            taken = group[-count:]
            del group[-count:]
            return taken
        del self.groups[room]
        rooms = self.patch_rooms[room[0]]
        rooms.remove(room[1])
        self.best.set(room[0], rooms[-1] if rooms else -1)
        return group


class _BestRoom:
    """Segment tree over token rooms: the largest patch room at each, and the first one that is large enough."""

    def __init__(self, tokens: int) -> None:
        self._leaves = 1 << tokens.bit_length()
        self._tree = [-1] * (2 * self._leaves)

    def set(self, tokens: int, patches: int) -> None:
        """The largest patch room among packs with ``tokens`` room; -1 for none."""
        node = self._leaves + tokens
        self._tree[node] = patches
        while node > 1:
            node //= 2
            largest = max(self._tree[2 * node], self._tree[2 * node + 1])
            if self._tree[node] == largest:
                return
            self._tree[node] = largest

    def first(self, tokens: int, patches: int) -> int | None:
        """The least token room >= ``tokens`` with a patch room >= ``patches``."""
        node = self._leaves + tokens
        while self._tree[node] < patches:
            # Go up until there is a subtree to the right, then try that one.
            while node & 1:
                node //= 2
                if node <= 1:
                    return None
            node += 1
        while node < self._leaves:
            node = 2 * node + (self._tree[2 * node] < patches)
        return node - self._leaves


def pack(tokens: npt.NDArray[np.int64], patches: npt.NDArray[np.int64], limits: Limits) -> Bins:
    """Packs that hold every sample once; each sample must fit an empty pack.

    tokens, patches: [samples] sizes. Samples of equal size are used in the order given.
    """
    if limits.patches is None:
        # Without a limit the patches do not matter, and samples of equal length are one class.
        patches = np.zeros_like(patches)
    empty = (limits.tokens, limits.patches or 0)
    assert (tokens <= empty[0]).all() and (patches <= empty[1]).all(), "a sample larger than a pack"
    bins: Bins = []
    packs = _Packs(_BestRoom(limits.tokens))
    for size, members in _classes(tokens, patches, empty):
        _place(members, size, empty, packs, bins)
    return bins


def lower_bound(tokens: npt.NDArray[np.int64], patches: npt.NDArray[np.int64], limits: Limits) -> int:
    """Packs that no packing can do without: each limit alone, filled to the brim."""
    by_tokens = -(-int(tokens.sum()) // limits.tokens)
    by_patches = -(-int(patches.sum()) // limits.patches) if limits.patches is not None else 0
    return max(by_tokens, by_patches)


def _classes(
    tokens: npt.NDArray[np.int64], patches: npt.NDArray[np.int64], empty: tuple[int, int]
) -> list[tuple[tuple[int, int], list[int]]]:
    """((tokens, patches), sample numbers) of each distinct size, the one that fills most of either limit first."""
    share = np.maximum(tokens / empty[0], patches / max(1, empty[1]))
    order = np.lexsort((patches, tokens, -share))
    sizes = np.stack([tokens[order], patches[order]], axis=1)
    starts = np.flatnonzero(np.r_[True, (sizes[1:] != sizes[:-1]).any(axis=1)]) if len(sizes) else np.zeros(0, np.int64)
    members = np.split(order, starts[1:])
    return [
        ((int(sizes[start, 0]), int(sizes[start, 1])), group.tolist())
        for start, group in zip(starts, members, strict=False)
    ]


def _place(members: list[int], size: tuple[int, int], empty: tuple[int, int], packs: _Packs, bins: Bins) -> None:
    """Put all samples of one size into open packs, tightest first, then into new ones."""
    done = 0
    while done < len(members):
        room = packs.find(*size)
        left = len(members) - done
        each = _copies(room or empty, size)
        # Packs that take all they can, or one for the rest when fewer samples than that are left.
        each, wanted = (each, left // each) if left >= each else (left, 1)
        if room is None:
            room = empty
            chosen = list(range(len(bins), len(bins) + wanted))
            bins.extend([] for _ in chosen)
        else:
            chosen = packs.take(room, wanted)
        for number in chosen:
            bins[number].extend(members[done : done + each])
            done += each
        packs.put(room[0] - each * size[0], room[1] - each * size[1], chosen)


def _copies(room: tuple[int, int], size: tuple[int, int]) -> int:
    """How many samples of one size a pack with this room takes."""
    by_tokens = room[0] // size[0]
    return min(by_tokens, room[1] // size[1]) if size[1] else by_tokens
