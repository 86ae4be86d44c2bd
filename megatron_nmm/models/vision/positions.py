"""A learnt vector for each place in the image, added to patches before the first layer, and the class token.

Shapes: P rows of a share, padding included; S side of the table; w encoder width.
"""

from collections import Counter
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megatron_nmm.config.schema_model import VisionConfig
from megatron_nmm.models.rows import take_rows
from megatron_nmm.models.vision.grid import Ints
from megatron_nmm.models.vision.share import Grid, Share

SHARPNESS = -0.75
"""Of the cubic, as torch's bicubic interpolation has it (Keys 1981, a)."""
KEPT = 4096
"""Sizes whose weights are remembered."""


class PositionTable(torch.nn.Module):
    """InternViT's embeddings behind the patch stem; whole on every tensor rank, which reads its own rows.

    The places of every view are laid out first, those of equal grids as copies of one: the gradient of a copy is a sum
    that torch takes in a fixed order, where picking from the table again and again would scatter it.
    """

    def __init__(self, config: Any, vision: VisionConfig) -> None:
        """``config`` is the encoder's TransformerConfig; its ``init_method`` draws the weights."""
        super().__init__()
        self.side, self.first = vision.table_side, int(vision.class_token)
        self.table = torch.nn.Parameter(torch.empty(vision.table_rows, vision.width, dtype=config.params_dtype))
        self.class_token = None
        if vision.class_token:
            self.class_token = torch.nn.Parameter(torch.empty(vision.width, dtype=config.params_dtype))
        with torch.no_grad():
            for weight in self.parameters():
                config.init_method(weight)

    def forward(self, patches: torch.Tensor, share: Share, mine: slice) -> torch.Tensor:
        """[rows of ``mine``, w] from the stem -> the same as the first layer takes them; ``mine`` are those of the
        share's P rows that this rank holds.

        Padding takes the table's first vector, so that a share without images has a gradient too, of zeros.
        """
        counts = tuple(Counter(share.grids).items())
        parts = [self._of_grid(*grid).expand(count, -1, -1).reshape(-1, self.table.shape[1]) for grid, count in counts]
        if self.class_token is not None:
            parts.append((self.class_token + self.table[0]).expand(len(share.grids), -1))
            own = torch.from_numpy(share.class_rows[mine]).to(patches.device, non_blocking=True)
            patches = patches.masked_fill(own[:, None], 0)
        parts.append(self.table[:1].expand(share.length - sum(map(len, parts)), -1))
        order = torch.from_numpy(order_of(share)[mine]).to(patches.device, non_blocking=True)
        return patches + take_rows(torch.cat(parts), order)

    def _of_grid(self, rows: int, columns: int) -> torch.Tensor:
        """[rows * columns, w] row by row; interpolated in fp32, first down, then across."""
        table = self.table[self.first :]
        if (rows, columns) == (self.side, self.side):
            return table
        down, across = (
            torch.from_numpy(cubic(self.side, size)).to(table.device, non_blocking=True) for size in (rows, columns)
        )
        # [rows, S, w] and then [rows, columns, w]
        stretched = (down @ table.float().reshape(self.side, -1)).reshape(rows, self.side, -1)
        return (across @ stretched).flatten(0, 1).to(table.dtype)


@lru_cache(KEPT)
def cubic(inputs: int, outputs: int) -> npt.NDArray[np.float32]:
    """[outputs, inputs] weights of cubic interpolation along one side: pixel centres are aligned, edges repeated
    (torch's ``interpolate(mode="bicubic", align_corners=False)``)."""
    place = (np.arange(outputs) + 0.5) * inputs / outputs - 0.5
    left = np.floor(place).astype(np.int64)
    weights = np.zeros((outputs, inputs))
    for tap in range(-1, 3):
        distance = np.abs(place - (left + tap))
        near = (SHARPNESS + 2) * distance**3 - (SHARPNESS + 3) * distance**2 + 1
        far = SHARPNESS * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        column = np.clip(left + tap, 0, inputs - 1)
        np.add.at(weights, (np.arange(outputs), column), np.where(distance <= 1, near, far))
    return weights.astype(np.float32)


def order_of(share: Share) -> Ints:
    """[P] which of the vectors laid out each row takes: the places of all views by grid, class tokens, padding."""
    found = np.full(share.length, -1, dtype=np.int64)
    start, first = 0, dict[Grid, int]()
    for grid, count in Counter(share.grids).items():
        first[grid], start = start, start + count * grid[0] * grid[1]
    row = 0
    for grid in share.grids:
        size = grid[0] * grid[1]
        view = slice(row, row + size)
        found[view] = first[grid] + share.rows[view] * grid[1] + share.columns[view]
        first[grid] += size
        row += size + share.class_unit
    if share.class_unit:
        start = _number(found, share.class_rows, start)
    _number(found, found < 0, start)
    return found


def _number(found: Ints, where: npt.NDArray[np.bool_], start: int) -> int:
    """Fill ``found`` with numbers from ``start`` on; the next one."""
    count = int(where.sum())
    found[where] = np.arange(start, start + count)
    return start + count
