"""The one input of a model: a microbatch of packed rows.

Shapes: B rows, S packed length, D documents in the fullest row, P patches, I images, C channels, p patch side.
Everything the model needs to route, mask and normalise is worked out here from the pack plan, on the host, once;
the model itself never inspects token values.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch


@dataclass(frozen=True)
class Batch:
    """Packed rows of one microbatch."""

    tokens: torch.Tensor
    """[B, S] int64; the image placeholder id stands once per LLM image token."""
    labels: torch.Tensor
    """[B, S] int64; the next token, 0 where ``loss_weight`` is 0."""
    loss_weight: torch.Tensor
    """[B, S] fp32; 1 where the label is supervised text; 0 on labels of an image or its layout, document ends and
    padding."""
    positions: torch.Tensor
    """[B, S] int64; restarts at 0 with every document."""
    document_starts: torch.Tensor
    """[B, D + 1] int32; cumulative document ends of each row, the last value repeated up to D + 1 and equal to S:
    the padding at the end of a row is a document of its own, so every position belongs to one."""
    filled: torch.Tensor
    """[B] int64; positions of each row that samples take; padding follows them."""
    modality: torch.Tensor
    """[B, S] int64; 0 text, 1 image: the positions that patches fill."""
    context: torch.Tensor
    """[B, S] int64; 1 where an image stands at or before the position in its document, else 0."""
    image_blocks: torch.Tensor
    """[I, 3] int64; row, start, end (exclusive) of each view of an image in packed rows, sorted by (row, start): from
    its first to its last placeholder, with the line ends that a native layout puts between them."""
    patches: torch.Tensor
    """[P, C * p * p] fp32; normalised pixels, channel-major then row then column, images in ``image_blocks`` order."""
    grids: torch.Tensor
    """[I, 2] int64; patch rows and columns of each view of an image."""
    patch_targets: torch.Tensor
    """[P / s^2] int64; flat position row * S + column of each image token, which s x s consecutive patches become
    (s = ``ImageRule.shuffle``, 1 in early fusion)."""
    visual_index: torch.Tensor
    """[N visual] int64; flat positions, ascending, that the visual experts of a layer take: images, and the token that
    begins one (NaViL's released code; line ends and the end of an image go with the text)."""
    text_index: torch.Tensor
    """[N text] int64; all other flat positions, ascending."""
    special_positions: torch.Tensor
    """[K] int64; flat positions of the tokens that lay out images."""
    special_rows: torch.Tensor
    """[K] int64; their rows in a table of special embeddings (``rule.SPECIAL_ROWS``)."""
    source: torch.Tensor
    """[B, S] int64; index of the position's source in the mixture."""
    kind: torch.Tensor
    """[B, S] int64; index into ``records.KINDS`` of the sample at this position."""
    sample_ids: tuple[tuple[str, ...], ...]
    """Per row, the ids of its samples in order; what the ledger records."""

    @property
    def rows(self) -> int:
        """B, the packed rows."""
        return self.tokens.shape[0]

    @property
    def sequence_length(self) -> int:
        """S, the packed length."""
        return self.tokens.shape[1]

    def to(self, device: torch.device) -> "Batch":
        """The same batch with every tensor on ``device``."""
        moved: dict[str, Any] = {
            f.name: getattr(self, f.name).to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(getattr(self, f.name), torch.Tensor)
        }
        return replace(self, **moved)
