"""The patches of one view: where each stands in the image, and in which order windows take them.

All functions are pure and small, and views of one shape come again and again, so results are kept.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from megatron_nmm.models.rope import Rotation

Ints = npt.NDArray[np.int64]
KEPT = 4096
"""Shapes of views remembered."""


@dataclass(frozen=True)
class Places:
    """P patches of one view as the batch holds them: merge groups row by row, and row by row inside a group."""

    rows: Ints
    """[P]"""
    columns: Ints
    """[P]"""


@dataclass(frozen=True)
class Windows:
    """The merge groups of one view, brought together by window (NaViL's released code)."""

    order: Ints
    """[G] group that each place in window order holds."""
    lengths: Ints
    """Patches of each window; those at the right and lower edge may be smaller."""


@lru_cache(KEPT)
def places(rows: int, columns: int, shuffle: int) -> Places:
    """Row and column of each patch of a view of ``rows`` x ``columns`` patches."""
    grid = np.arange(rows * columns).reshape(rows // shuffle, shuffle, columns // shuffle, shuffle)
    index = grid.transpose(0, 2, 1, 3).reshape(-1)
    return Places(index // columns, index % columns)


@lru_cache(KEPT)
def windows(rows: int, columns: int, shuffle: int, window: int) -> Windows:
    """Squares of ``window`` x ``window`` patches, row by row from the upper left corner; 0 = the view is one window.

    ``window`` is a multiple of ``shuffle``, so no merge group is cut.
    """
    down, across = rows // shuffle, columns // shuffle
    if not window:
        return Windows(np.arange(down * across), np.array([rows * columns]))
    side = window // shuffle
    row, column = np.divmod(np.arange(down * across), across)
    owner = row // side * -(-across // side) + column // side
    return Windows(np.argsort(owner, kind="stable"), np.bincount(owner) * shuffle**2)


def rotation(
    rows_P: Ints, columns_P: Ints, head_width: int, base: float, device: torch.device, dtype: torch.dtype
) -> Rotation:
    """Two-dimensional RoPE: of D / 2 angles the first half turns with the row, the second with the column.

    Frequencies are base^(-i / (D / 4)), i = 0 .. D / 4 - 1, for both (NaViL's released code).
    """
    quarter = head_width // 4
    frequency = base ** (-torch.arange(quarter, dtype=torch.float32, device=device) / quarter)
    place = torch.from_numpy(np.stack([rows_P, columns_P], axis=1))
    place = place.to(device=device, dtype=torch.float32, non_blocking=True)
    angle = (place[:, :, None] * frequency).flatten(1)[:, None]
    return Rotation(angle.cos().to(dtype), angle.sin().to(dtype))
