"""Who may attend to whom in packed rows, as host-side facts.

T is the flat length B * S of a microbatch: rows are laid end to end, because attention never crosses a document and
positions restart with each. The mask of the decoder has two rules (P1 section 2, NaViL section 3):

    attend(i, j) = same document and (j <= i  or  (bidirectional and i, j in the same image block))

In a vision encoder a document is a view of an image, or a window of one, and all of it sees all of it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from megatron_nmm.config.schema_model import ImageMask
from megatron_nmm.data.batch import Batch

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PackedLayout:
    """Documents and bidirectional blocks of T flat positions."""

    document_starts: Ints
    """[D] first flat position of each document, ascending, the first one 0."""
    document_lengths: Ints
    """[D] tokens of each document, none 0; they sum to T."""
    blocks: Ints
    """[I, 2] start and end (exclusive) of each bidirectional image block; empty when images are causal."""
    causal: bool = True
    """False: documents are bidirectional as a whole, and there are no blocks."""
    queries: Ints | None = None
    """[Q] flat positions, ascending, that attend here, to the keys of all T; None = all of them."""

    @staticmethod
    def full(lengths: Ints) -> "PackedLayout":
        """Bidirectional documents of these lengths, none 0, end to end."""
        return PackedLayout(np.cumsum(lengths) - lengths, lengths, np.zeros((0, 2), dtype=np.int64), causal=False)

    @staticmethod
    def of(batch: Batch, image_mask: ImageMask, queries: torch.Tensor | None = None) -> "PackedLayout":
        """The layout of ``batch`` under the model's image rule, for all positions or those of ``queries``."""
        starts = batch.document_starts.numpy().astype(np.int64)
        row_offset = np.arange(batch.rows, dtype=np.int64)[:, None] * batch.sequence_length
        lengths = np.diff(starts, axis=1)
        real = lengths > 0
        blocks = batch.image_blocks.numpy()
        flat = blocks[:, 1:] + blocks[:, :1] * batch.sequence_length
        return PackedLayout(
            document_starts=(starts[:, :-1] + row_offset)[real],
            document_lengths=lengths[real],
            blocks=flat if image_mask == "bidirectional" else flat[:0],
            queries=None if queries is None else queries.numpy(),
        )

    @property
    def tokens(self) -> int:
        """T, the flat length."""
        return int(self.document_lengths.sum())

    def document_of(self) -> Ints:
        """[T] index of each position's document."""
        return np.repeat(np.arange(len(self.document_lengths)), self.document_lengths)

    def block_of(self) -> Ints:
        """[T] index of each position's bidirectional block, -1 where there is none."""
        if not self.causal:
            return self.document_of()
        owner = np.full(self.tokens, -1, dtype=np.int64)
        if len(self.blocks):
            widths = self.blocks[:, 1] - self.blocks[:, 0]
            within = np.arange(widths.sum()) - np.repeat(np.cumsum(widths) - widths, widths)
            owner[np.repeat(self.blocks[:, 0], widths) + within] = np.repeat(np.arange(len(widths)), widths)
        return owner


def dense_mask(layout: PackedLayout) -> torch.Tensor:
    """[Q, T] bool, True where row may attend to column: the rule of this file written out, for short layouts."""
    document, block = torch.from_numpy(layout.document_of()), torch.from_numpy(layout.block_of())
    position = torch.arange(layout.tokens)
    same_document = document[:, None] == document[None, :]
    same_block = (block[:, None] == block[None, :]) & (block[:, None] >= 0)
    mask = same_document & ((position[None, :] <= position[:, None]) | same_block)
    return mask if layout.queries is None else mask[torch.from_numpy(layout.queries)]
