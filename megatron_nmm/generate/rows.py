"""Prompts as the rows of a batch with room for answers, and the batches that go on behind them.

Shapes: B rows, S packed length.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.config.recipes import row_multiple
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.load import Loaded
from megatron_nmm.data.prompt import batch_of
from megatron_nmm.data.tokens import Tokenizer


def rows_with_room(
    run: RunConfig, tokenizer: Tokenizer, loaded: Sequence[Loaded], room: int
) -> tuple[Batch, torch.Tensor]:
    """One prompt a row, with at least ``room`` columns behind the longest, and the [B] lengths of the prompts.

    Prompt, answer and padding of a row form one document: text is causal, so what stands behind a token, padding or a
    token still to come, cannot change it.
    """
    lengths_B = torch.tensor([len(sample.tokens) for sample in loaded])
    # Context and sequence parallelism cut rows into this many pieces, and products in 8 bits want whole blocks of rows.
    split = run.parallel.chunks * run.parallel.tensor * row_multiple(run.precision)
    length = -(-(int(lengths_B.max()) + room) // split) * split
    batch = batch_of(run, tokenizer, loaded, length)
    positions = torch.arange(length).expand(batch.rows, -1).contiguous()
    starts = torch.tensor([[0, length]], dtype=torch.int32).repeat(batch.rows, 1)
    # The room counts as filled: what is written there is no padding to the routers of sparse experts.
    filled = torch.full((batch.rows,), length)
    return replace(batch, positions=positions, document_starts=starts, filled=filled), lengths_B


def next_positions(batch: Batch, tokens_B: torch.Tensor, positions_B: torch.Tensor) -> Batch:
    """A batch of one text token a row that stands behind what ``batch``'s rows have in a key/value cache."""
    rows, none = len(tokens_B), torch.zeros(0, dtype=torch.int64)
    column = torch.zeros(rows, 1, dtype=torch.int64)
    return replace(
        batch,
        tokens=tokens_B[:, None],
        labels=column,
        loss_weight=column.float(),
        positions=positions_B[:, None],
        document_starts=torch.tensor([[0, 1]], dtype=torch.int32).repeat(rows, 1),
        filled=torch.ones(rows, dtype=torch.int64),
        modality=column,
        context=column,
        image_blocks=batch.image_blocks[:0],
        patches=batch.patches[:0],
        grids=batch.grids[:0],
        patch_targets=none,
        visual_index=none,
        text_index=torch.arange(rows),
        special_positions=none,
        special_rows=none,
        source=column,
        kind=batch.kind[:, :1],
    )
