"""Where the patches of one view stand in the image, and in which order windows take them.

A view's patches come in merge groups (the s x s patches of one token) row by row, and row by row inside a group.
"""

from dataclasses import dataclass

import torch

Grid = tuple[int, int]
"""Rows and columns of patches of one view."""


def grids_of(image_grid_hw: torch.Tensor) -> list[Grid]:
    """The grids of [V, 2] views, on the host."""
    return [(int(rows), int(columns)) for rows, columns in image_grid_hw.tolist()]


@dataclass(frozen=True)
class Places:
    """Of the P patches of one view, in their order."""

    rows: torch.Tensor
    """[P]"""
    columns: torch.Tensor
    """[P]"""


@dataclass(frozen=True)
class Windows:
    """The patches of one view brought together by window."""

    order: torch.Tensor
    """[P] patch that each place in window order holds; a merge group is never cut."""
    lengths: list[int]
    """Patches of each window; those at the right and lower edge may be smaller."""


def places(rows: int, columns: int, shuffle: int) -> Places:
    """Row and column of each patch of a view of ``rows`` x ``columns`` patches."""
    grid = torch.arange(rows * columns).reshape(rows // shuffle, shuffle, columns // shuffle, shuffle)
    index = grid.permute(0, 2, 1, 3).reshape(-1)
    return Places(index // columns, index % columns)


def windows(rows: int, columns: int, shuffle: int, window: int) -> Windows:
    """Squares of ``window`` x ``window`` patches, row by row from the upper left corner; 0 = the view is one window."""
    if not window:
        return Windows(torch.arange(rows * columns), [rows * columns])
    where = places(rows, columns, shuffle)
    owner = where.rows // window * -(-columns // window) + where.columns // window
    return Windows(owner.argsort(stable=True), owner.bincount().tolist())
