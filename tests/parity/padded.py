"""A step over rows to which padding is appended, for tests that padding counts for nothing."""

from dataclasses import replace

import torch
from torch.nn.functional import pad

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.build import build
from megatron_nmm.parallel import full_state
from megatron_nmm.parallel.schedule import forward_backward
from megatron_nmm.verify import compare, synthetic
from megatron_nmm.verify.workers import Place
from tests.parity.rows import FLAT, PER_POSITION


def step_with_padding(place: Place, run: RunConfig, state: compare.State, extra: int) -> compare.StepResult | None:
    """One step of one process over the same documents in rows ``extra`` positions longer."""
    batches = synthetic.batches(run, 2, seed=4, sources=2)
    longer = replace(run, data=replace(run.data, sequence_length=run.data.sequence_length + extra))
    with place.world(run.parallel, run.seed) as world:
        model = build(longer, world)
        full_state.load(model, state)
        sums = forward_backward(model, [lengthened(batch, extra) for batch in batches], world, sources=2)
        gradients = full_state.gather(model, world, full_state.gradient)
    return compare.StepResult(sums.mean, gradients) if gradients is not None else None


def lengthened(batch: Batch, extra: int) -> Batch:
    """``batch`` with ``extra`` positions of padding behind each row; a document of their own, as padding always is."""
    length = batch.sequence_length
    changed: dict[str, torch.Tensor] = {
        name: pad(getattr(batch, name), (0, extra), value=synthetic.SPECIAL["pad"] if name == "tokens" else 0)
        for name in PER_POSITION
    }
    moved = {
        name: flat // length * (length + extra) + flat % length for name in FLAT for flat in (getattr(batch, name),)
    }
    starts = torch.cat([batch.document_starts, batch.document_starts.new_full((batch.rows, 1), length + extra)], 1)
    everywhere = torch.arange(batch.rows * (length + extra))
    visual = moved["visual_index"]
    moved["text_index"] = everywhere[~torch.isin(everywhere, visual)]
    return replace(batch, **changed, **moved, document_starts=starts if extra else batch.document_starts)
