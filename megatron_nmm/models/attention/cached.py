"""Keys and values kept from one forward pass to the next, so that a new token costs one position, not its whole row.

Every row is one document from column 0 on. The first pass attends as in training and leaves its keys here; a later one
brings positions behind them, whose queries meet all keys up to their own. Works on any device, on each tensor rank's
heads and each pipeline stage's layers alike; rows that context ranks share have no such cache.
Shapes: B rows, S positions of a pass, T = B * S, R keys so far, H query heads over G key/value heads of width D.
"""

from dataclasses import dataclass, field

import torch
from torch.nn.functional import scaled_dot_product_attention

from megatron_nmm.data.batch import Batch


@dataclass
class KeyValueCache:
    """What this rank's layers keep of the rows of one batch."""

    room: int
    """Positions a row may have in the end."""
    kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    """Layer -> [B, G, room, D] rotated keys and values."""

    def of(self, layer: int, rows: int, like_TGD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values of ``layer``, empty when it comes here for the first time."""
        if layer not in self.kept:
            shape = (rows, like_TGD.shape[1], self.room, like_TGD.shape[2])
            self.kept[layer] = (like_TGD.new_zeros(shape), like_TGD.new_zeros(shape))
        return self.kept[layer]


@dataclass(frozen=True)
class CachedPass:
    """What one forward pass does with the cache."""

    cache: KeyValueCache
    rows: int
    row_T: torch.Tensor
    place_T: torch.Tensor
    """[T] row and column of every key that the pass brings."""
    visible: torch.Tensor | None
    """[B, 1, S, R] bool, True where a query meets a key; None in a first pass, whose plan has a mask of its own."""

    @staticmethod
    def of(cache: KeyValueCache, batch: Batch, device: torch.device) -> "CachedPass":
        """The pass over ``batch``; a first one begins at position 0 in every row, a later one in none."""
        rows = torch.arange(batch.rows).repeat_interleave(batch.sequence_length)
        visible = None
        if not (batch.positions[:, 0] == 0).all():
            seen = torch.arange(int(batch.positions.max()) + 1)
            visible = (seen <= batch.positions[:, None, :, None]).to(device, non_blocking=True)
        places = batch.positions.reshape(-1)
        return CachedPass(
            cache, batch.rows, rows.to(device, non_blocking=True), places.to(device, non_blocking=True), visible
        )

    def keep(self, layer: int, key_TGD: torch.Tensor, value_TGD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put new keys and values away; what the queries of the pass meet: the same [T, G, D] in a first pass, later
        [B, G, R, D]. Doing it twice changes nothing, as virtual stages do."""
        keys, values = self.cache.of(layer, self.rows, key_TGD)
        keys[self.row_T, :, self.place_T] = key_TGD
        values[self.row_T, :, self.place_T] = value_TGD
        if self.visible is None:
            return key_TGD, value_TGD
        reach = self.visible.shape[-1]
        return keys[:, :, :reach], values[:, :, :reach]


def attend(
    query_THD: torch.Tensor, key_BGRD: torch.Tensor, value_BGRD: torch.Tensor, step: CachedPass, scale: float
) -> torch.Tensor:
    """Attention of a later pass; returns [T, H * D]."""
    query = query_THD.unflatten(0, (step.rows, -1)).transpose(1, 2)
    grouped = query.shape[1] != key_BGRD.shape[1]
    out = scaled_dot_product_attention(
        query, key_BGRD, value_BGRD, attn_mask=step.visible, scale=scale, enable_gqa=grouped
    )
    return out.transpose(1, 2).flatten(0, 1).flatten(1)
