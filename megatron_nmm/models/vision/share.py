"""Which patches a tensor rank encodes and where its tokens end up, worked out on the host, the same on every rank.

A unit is the square of s x s patches that becomes one token. Views are whole; where rows must divide, or where there is
nothing to encode, a padding view of zeros stands at the end, and no token reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megatron_nmm.config.schema_model import VisionConfig
from megatron_nmm.models.vision.grid import Ints, places, windows
from megatron_nmm.models.vision.placement import Placement

Grid = tuple[int, int]


@dataclass(frozen=True)
class Share:
    """What one group of attention computes: P patches, padding included."""

    patches: Ints
    """[real patches] index into the batch's patches, in window order within each view."""
    rows: Ints
    """[P] row in the view; 0 for padding."""
    columns: Ints
    """[P]"""
    views: Ints
    """Patches of each view, padding among them."""
    windows: Ints
    """Patches of each window, padding among them."""

    @property
    def length(self) -> int:
        """P."""
        return int(self.views.sum())


@dataclass(frozen=True)
class Shares:
    """The work of a tensor group."""

    mine: Share
    home: Ints
    """[N] place of each image token among the tokens of all ranks, laid end to end."""
    tokens: int
    """Tokens that each rank hands over: those of its share, filled up to the largest share."""


def spread(costs: Sequence[int], ranks: int) -> list[int]:
    """The rank of each view: the dearest first, always to the rank with least to do; ties go to the lower one."""
    load = [0] * ranks
    owner = [0] * len(costs)
    for view in sorted(range(len(costs)), key=lambda view: -costs[view]):
        rank = load.index(min(load))
        owner[view] = rank
        load[rank] += costs[view]
    return owner


def shares(grids: Sequence[Grid], vision: VisionConfig, placed: Placement, ranks: int, rank: int, split: int) -> Shares:
    """The share of ``rank`` among ``ranks`` and the way back for all of them.

    ``split`` is how many ranks divide the rows of one share between them: the tensor group under sequence parallelism,
    else 1. In placement "tensor" all ranks have the same share, in "data" each has its own views.
    """
    unit = vision.shuffle**2
    costs = [rows * columns for rows, columns in grids]
    if placed == "tensor":
        share = _share(range(len(grids)), grids, costs, vision, unit * split)
        return Shares(share, _homes(range(len(grids)), grids, vision, 0), share.length // unit)
    owner = spread(costs, ranks)
    of_rank = [[view for view in range(len(grids)) if owner[view] == each] for each in range(ranks)]
    most = max(1, *(sum(costs[view] for view in views) // unit for views in of_rank))
    homes: list[Ints] = [np.zeros(0, dtype=np.int64)] * len(grids)
    for each, views in enumerate(of_rank):
        found = _homes(views, grids, vision, each * most)
        ends = np.cumsum([costs[view] // unit for view in views], dtype=np.int64)
        for view, home in zip(views, np.split(found, ends[:-1]), strict=False):
            homes[view] = home
    return Shares(_share(of_rank[rank], grids, costs, vision, unit), _join(homes), most)


def _share(views: Sequence[int], grids: Sequence[Grid], costs: Sequence[int], vision: VisionConfig, unit: int) -> Share:
    """The patches of ``views``, padded to a multiple of ``unit`` and at least one."""
    first = np.cumsum([0, *costs])
    found = [windows(*grids[view], vision.shuffle, vision.window) for view in views]
    inside = np.arange(vision.shuffle**2)
    order = [(each.order[:, None] * len(inside) + inside).reshape(-1) for each in found]
    where = [places(*grids[view], vision.shuffle) for view in views]
    real = sum(costs[view] for view in views)
    padding = max(unit, -(-real // unit) * unit) - real
    fill = np.zeros(padding, dtype=np.int64)
    rest = np.array([padding][: min(padding, 1)], dtype=np.int64)
    return Share(
        patches=_join([first[view] + o for view, o in zip(views, order, strict=True)]),
        rows=_join([*(w.rows[o] for w, o in zip(where, order, strict=True)), fill]),
        columns=_join([*(w.columns[o] for w, o in zip(where, order, strict=True)), fill]),
        views=_join([np.array([costs[view] for view in views], dtype=np.int64), rest]),
        windows=_join([*(each.lengths for each in found), rest]),
    )


def _homes(views: Sequence[int], grids: Sequence[Grid], vision: VisionConfig, start: int) -> Ints:
    """[tokens of ``views``] where the token of each unit, in the batch's order, stands in a share from ``start`` on."""
    homes = []
    for view in views:
        home = np.argsort(windows(*grids[view], vision.shuffle, vision.window).order) + start
        homes.append(home)
        start += len(home)
    return _join(homes)


def _join(parts: Sequence[Ints]) -> Ints:
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)
