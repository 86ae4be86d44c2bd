"""Which patches a rank encodes and where its tokens end up, worked out on the host, the same on every rank.

A unit is the square of s x s patches that becomes one token. Views are whole; where rows must divide, or where there is
nothing to encode, a padding view of zeros stands at the end, and no token reads it. A class token stands behind the
patches of its view, in a unit of its own, which is padding for the rest; no token of the decoder reads that either.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_nmm.config.schema_model import VisionConfig
from megatron_nmm.models.vision.grid import Ints, places, windows

Grid = tuple[int, int]


@dataclass(frozen=True)
class Share:
    """What one worker computes: P patches, padding included."""

    patches: Ints
    """[up to the last view] index into the batch's patches, in window order within each view; -1 = no patch."""
    rows: Ints
    """[P] row in the view; 0 for padding."""
    columns: Ints
    """[P]"""
    views: Ints
    """Rows of each view with its class token, and of padding."""
    windows: Ints
    """Rows of each window, padding among them."""
    grids: tuple[Grid, ...]
    """Of each view."""
    class_unit: int
    """Rows of a class token's unit; 0 = there are none."""

    @property
    def length(self) -> int:
        """P."""
        return int(self.views.sum())

    @property
    def class_rows(self) -> npt.NDArray[np.bool_]:
        """[P] whether a row is a class token."""
        found = np.zeros(self.length, dtype=np.bool_)
        sizes = np.array([rows * columns for rows, columns in self.grids], dtype=np.int64)
        if self.class_unit:
            found[np.cumsum(sizes + self.class_unit) - self.class_unit] = True
        return found


@dataclass(frozen=True)
class Shares:
    """The work of all workers."""

    mine: Share
    home: Ints
    """[N] place of each image token among the tokens of all workers, laid end to end."""
    tokens: int
    """Tokens that each worker hands over: those of its share, filled up to the largest share."""


def spread(costs: Sequence[int], workers: int) -> list[int]:
    """The worker of each view: the dearest first, always to the one with least to do; ties go to the lower one."""
    load = [0] * workers
    owner = [0] * len(costs)
    for view in sorted(range(len(costs)), key=lambda view: -costs[view]):
        rank = load.index(min(load))
        owner[view] = rank
        load[rank] += costs[view]
    return owner


def shares(
    grids: Sequence[Grid], vision: VisionConfig, workers: int, worker: int, split: int, multiple: int = 1
) -> Shares:
    """The share of ``worker`` among ``workers``, each of whom has its own views, and the way back for all of them.

    ``split`` is how many ranks divide the rows of one share between them: the tensor group, where it is one worker
    under sequence parallelism, else 1. ``multiple`` is what the patches of each rank are a multiple of, for products in
    8 bits.
    """
    unit = vision.shuffle**2
    filled = math.lcm(unit, multiple)
    costs = [rows * columns + vision.class_unit for rows, columns in grids]
    owner = spread(costs, workers)
    of_worker = [[view for view in range(len(grids)) if owner[view] == each] for each in range(workers)]
    most = max(_up(sum(costs[view] for view in views), filled * split) // unit for views in of_worker)
    homes: list[Ints] = [np.zeros(0, dtype=np.int64)] * len(grids)
    for each, views in enumerate(of_worker):
        found = _homes(views, grids, vision, each * most)
        ends = np.cumsum([(costs[view] - vision.class_unit) // unit for view in views], dtype=np.int64)
        for view, home in zip(views, np.split(found, ends[:-1]), strict=False):
            homes[view] = home
    return Shares(_share(of_worker[worker], grids, vision, filled * split), _join(homes), most)


def _share(views: Sequence[int], grids: Sequence[Grid], vision: VisionConfig, unit: int) -> Share:
    """The patches of ``views``, padded to a multiple of ``unit`` and at least one."""
    sizes, behind = [rows * columns for rows, columns in grids], vision.class_unit
    first = np.cumsum([0, *sizes])
    found = [windows(*grids[view], vision.shuffle, vision.window) for view in views]
    inside = np.arange(vision.shuffle**2)
    order = [(each.order[:, None] * len(inside) + inside).reshape(-1) for each in found]
    where = [places(*grids[view], vision.shuffle) for view in views]
    real = sum(sizes[view] + behind for view in views)
    padding = _up(real, unit) - real
    fill, rest = np.zeros(padding, dtype=np.int64), _nonzero(padding)
    # A class token attends with its view; what fills its unit is alone.
    whole = [part for view in views for part in (_nonzero(sizes[view] + (behind > 0)), _nonzero(behind - 1))]
    return Share(
        patches=_join([_followed(first[view] + o, behind, -1) for view, o in zip(views, order, strict=True)]),
        rows=_join([*(_followed(w.rows[o], behind, 0) for w, o in zip(where, order, strict=True)), fill]),
        columns=_join([*(_followed(w.columns[o], behind, 0) for w, o in zip(where, order, strict=True)), fill]),
        views=_join([*whole, rest]),
        windows=_join([*(each.lengths for each in found), rest] if vision.window else [*whole, rest]),
        grids=tuple(grids[view] for view in views),
        class_unit=behind,
    )


def _followed(rows: Ints, count: int, value: int) -> Ints:
    """``rows`` and behind them ``count`` times ``value``."""
    return np.pad(rows, (0, count), constant_values=value)


def _nonzero(length: int) -> Ints:
    """``length`` alone, or nothing where it is not above 0."""
    return np.array([length][: max(length, 0)], dtype=np.int64)


def _up(patches: int, unit: int) -> int:
    """The next multiple of ``unit``, which is the least."""
    return max(unit, -(-patches // unit) * unit)


def _homes(views: Sequence[int], grids: Sequence[Grid], vision: VisionConfig, start: int) -> Ints:
    """[tokens of ``views``] where the token of each unit, in the batch's order, stands in a share from ``start`` on."""
    homes = []
    for view in views:
        home = np.argsort(windows(*grids[view], vision.shuffle, vision.window).order) + start
        homes.append(home)
        start += len(home) + min(vision.class_unit, 1)
    return _join(homes)


def _join(parts: Sequence[Ints]) -> Ints:
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)
