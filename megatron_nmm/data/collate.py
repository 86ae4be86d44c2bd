"""Puts the loaded samples of packed rows into one Batch; every array is filled by whole samples or whole rows.

B rows, S packed length, D documents in the fullest row, P patches, I images, N samples of the batch, T their tokens.
Two samples never see each other: positions restart, no label crosses from one to the next, and ``document_starts``
says where each ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megatron_nmm.data.batch import Batch
from megatron_nmm.data.load import Loaded
from megatron_nmm.data.rule import layout_ids, special_rows
from megatron_nmm.errors import DataError

Row = Sequence[Loaded]
"""Samples of one packed row in order; may be empty: a row of padding, without weight."""
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Layout:
    """Where the samples of a batch stand; flat positions are row * S + column."""

    rows: int
    length: int
    samples: list[Loaded]
    starts: Integers
    """[N] flat position of each sample's first token."""
    lengths: Integers
    """[N] tokens."""
    places: Integers
    """[T] flat position of every token."""

    def empty(self, value: int) -> Integers:
        """[B * S] of one value."""
        return np.full(self.rows * self.length, value, dtype=np.int64)

    def spread(self, values: Sequence[int]) -> Integers:
        """[B * S] each sample's value at all of its positions, 0 on padding."""
        filled = self.empty(0)
        filled[self.places] = np.repeat(np.array(values, dtype=np.int64), self.lengths)
        return filled


def collate(
    rows: Sequence[Row],
    sequence_length: int,
    special: Mapping[str, int],
    patch_values: int,
    shuffle: int = 1,
) -> Batch:
    """The batch of these rows.

    special: token ids by name (``Tokenizer.special``); patch_values: C * p * p, the width of ``Batch.patches`` also
    when there are none; shuffle: side of the square of patches that takes one placeholder (``ImageRule.shuffle``).
    DataError names a sample whose grids do not match its placeholders.
    """
    layout = _lay_out(rows, sequence_length)
    tokens = layout.empty(special["pad"])
    if layout.samples:
        tokens[layout.places] = np.concatenate([sample.tokens for sample in layout.samples])
    modality = np.where(tokens == special["image"], 1, 0)
    of_images = np.isin(tokens, (special["image"], *layout_ids(special)))
    visual = (modality == 1) | (tokens == special["begin_of_image"])
    positions, table_rows = _special(tokens, special)
    labels, weight = _labels(layout, tokens, of_images)
    targets = np.flatnonzero(modality)
    blocks, grids, patches = _images(layout, targets, of_images, patch_values, shuffle**2)
    document_starts = _document_starts(rows, sequence_length)
    shape = (len(rows), sequence_length)
    return Batch(
        tokens=_tensor(tokens, shape),
        labels=_tensor(labels, shape),
        loss_weight=_tensor(weight, shape),
        positions=_tensor(_positions(document_starts, sequence_length), shape),
        document_starts=torch.from_numpy(document_starts),
        filled=torch.tensor([sum(len(sample.tokens) for sample in row) for row in rows]),
        modality=_tensor(modality, shape),
        context=_tensor(_context(modality, document_starts), shape),
        visual_index=torch.from_numpy(np.flatnonzero(visual)),
        text_index=torch.from_numpy(np.flatnonzero(~visual)),
        special_positions=torch.from_numpy(positions),
        special_rows=torch.from_numpy(table_rows),
        image_blocks=torch.from_numpy(blocks),
        patches=torch.from_numpy(patches),
        grids=torch.from_numpy(grids),
        patch_targets=torch.from_numpy(targets),
        source=_tensor(layout.spread([sample.source for sample in layout.samples]), shape),
        kind=_tensor(layout.spread([sample.kind for sample in layout.samples]), shape),
        sample_ids=tuple(tuple(sample.id for sample in row) for row in rows),
    )


def _lay_out(rows: Sequence[Row], sequence_length: int) -> _Layout:
    """Samples stand in order from the left of their row, without gaps."""
    starts: list[int] = []
    for row, samples in enumerate(rows):
        column = 0
        for sample in samples:
            starts.append(row * sequence_length + column)
            column += len(sample.tokens)
        assert column <= sequence_length, f"row {row} holds {column} tokens, more than {sequence_length}"
    samples_of_all = [sample for row in rows for sample in row]
    lengths = np.array([len(sample.tokens) for sample in samples_of_all], dtype=np.int64)
    first = np.array(starts, dtype=np.int64)
    before = np.cumsum(lengths) - lengths
    places = np.repeat(first - before, lengths) + np.arange(lengths.sum())
    return _Layout(len(rows), sequence_length, samples_of_all, first, lengths, places)


def _labels(
    layout: _Layout, tokens: Integers, of_images: npt.NDArray[np.bool_]
) -> tuple[Integers, npt.NDArray[np.float32]]:
    """([B * S] next tokens, [B * S] weight 1 where the next token is text of the same sample)."""
    weight = np.zeros(len(tokens), dtype=np.float32)
    weight[layout.places] = 1
    weight[layout.starts + layout.lengths - 1] = 0
    labels = np.roll(tokens, -1)
    weight[np.roll(of_images, -1)] = 0
    labels[weight == 0] = 0
    return labels, weight


def _images(
    layout: _Layout, targets: Integers, of_images: npt.NDArray[np.bool_], patch_values: int, merged: int
) -> tuple[Integers, Integers, npt.NDArray[np.float32]]:
    """([I, 3] row, start, end; [I, 2] grids; [P, C * p * p]) of all views, in the order of their placeholders.

    targets: flat positions of all placeholders; of_images: [B * S] whether a token is a placeholder or lays one out;
    merged: patches per placeholder. A block reaches from the first to the last placeholder of its view, with the
    line ends between them.
    """
    patches = [view for sample in layout.samples for view in sample.patches]
    grids = [grid for sample in layout.samples for grid in sample.grids]
    counts = np.array([grid.patches // merged for grid in grids], dtype=np.int64)
    # Samples are checked one by one: two faults that cancel out must not pass.
    ends = np.searchsorted(targets, layout.starts + layout.lengths)
    begins = np.searchsorted(targets, layout.starts)
    for sample, found in zip(layout.samples, ends - begins, strict=True):
        needed = sum(grid.patches for grid in sample.grids)
        if not found * merged == needed == sum(map(len, sample.patches)):
            raise DataError(
                f"sample {sample.id!r} has {found} image placeholders for {needed} patches, {merged} of which make one "
                "token; its corpus is damaged: tokenise it again with tools/tokenise.py"
            )
    last = np.cumsum(counts) - 1
    first = targets[last - counts + 1]
    end = targets[last] + 1
    inside = np.concatenate([[0], np.cumsum(of_images)])
    assert (inside[end] - inside[first] == end - first).all(), "the placeholders of an image are not contiguous"
    blocks = np.stack([first // layout.length, first % layout.length, (end - 1) % layout.length + 1], axis=1)
    together = np.concatenate(patches) if patches else np.zeros((0, patch_values), dtype=np.float32)
    assert together.shape[1] == patch_values, f"patches of {together.shape[1]} values, the model has {patch_values}"
    sizes = np.array([(grid.rows, grid.columns) for grid in grids], dtype=np.int64).reshape(-1, 2)
    return blocks, sizes, together


def _document_starts(rows: Sequence[Row], sequence_length: int) -> npt.NDArray[np.int32]:
    """[B, D + 1] cumulative ends; the padding of a row is its last document, and S is repeated up to D + 1."""
    ends = [np.cumsum([0, *(len(sample.tokens) for sample in row)]) for row in rows]
    documents = max(len(row_ends) - 1 + int(row_ends[-1] < sequence_length) for row_ends in ends)
    starts = np.full((len(rows), documents + 1), sequence_length, dtype=np.int32)
    for row, row_ends in enumerate(ends):
        starts[row, : len(row_ends)] = row_ends
    return starts


def _positions(document_starts: npt.NDArray[np.int32], sequence_length: int) -> Integers:
    """[B * S] column minus the start of the document it stands in."""
    columns = np.arange(sequence_length, dtype=np.int64)
    rows = [columns - row[np.searchsorted(row, columns, side="right") - 1] for row in document_starts]
    return np.concatenate(rows)


def _context(modality: Integers, document_starts: npt.NDArray[np.int32]) -> Integers:
    """[B * S] 1 from the first image of a document to its end."""
    length = document_starts[0, -1]
    first = document_starts[:, :-1].astype(np.int64) + np.arange(len(document_starts))[:, None] * length
    lengths = np.diff(document_starts, axis=1)
    seen = np.cumsum(modality)
    before = np.repeat((seen - modality)[np.minimum(first, len(modality) - 1)].reshape(-1), lengths.reshape(-1))
    return (seen > before).astype(np.int64)


def _special(tokens: Integers, special: Mapping[str, int]) -> tuple[Integers, Integers]:
    """([K] flat positions, [K] rows in the table of special embeddings) of the tokens that lay out images."""
    rows = np.full(max(special.values()) + 2, -1, dtype=np.int64)
    for token, row in special_rows(special).items():
        rows[token] = row
    of_token = rows[np.minimum(tokens, len(rows) - 1)]
    positions = np.flatnonzero(of_token >= 0)
    return positions, of_token[positions]


def _tensor(flat: npt.NDArray[Any], shape: tuple[int, int]) -> torch.Tensor:
    return torch.from_numpy(flat.reshape(shape))
