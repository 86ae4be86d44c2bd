"""Several batches of packed rows as one, for tests that cut a global batch in different ways."""

from collections.abc import Sequence

import torch

from megatron_nmm.data.batch import Batch

PER_POSITION = ("tokens", "labels", "loss_weight", "positions", "modality", "context", "source", "kind")
"""Fields of shape [B, S]."""
FLAT = ("patch_targets", "visual_index", "text_index", "special_positions")
"""Fields of flat positions."""


def join(batches: Sequence[Batch]) -> Batch:
    """Rows of ``batches`` below each other."""
    length = batches[0].sequence_length
    offsets = [sum(b.rows for b in batches[:i]) for i in range(len(batches))]
    widest = max(b.document_starts.shape[1] for b in batches)
    starts = [
        torch.nn.functional.pad(b.document_starts, (0, widest - b.document_starts.shape[1]), value=length)
        for b in batches
    ]
    blocks = [b.image_blocks + torch.tensor([offset, 0, 0]) for b, offset in zip(batches, offsets, strict=True)]
    placed = {
        name: torch.cat([getattr(b, name) + offset * length for b, offset in zip(batches, offsets, strict=True)])
        for name in FLAT
    }
    whole = (*PER_POSITION, "filled", "patches", "grids", "special_rows")
    return Batch(
        **{name: torch.cat([getattr(b, name) for b in batches]) for name in whole},
        document_starts=torch.cat(starts),
        image_blocks=torch.cat(blocks),
        **placed,
        sample_ids=tuple(ids for b in batches for ids in b.sample_ids),
    )
