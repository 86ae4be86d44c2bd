"""Packed equals unpacked, and no sample of a pack can see another."""

import itertools
from dataclasses import replace

import torch

from megatron_nmm.config import ModelConfig, RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.verify import layouts, synthetic
from megatron_nmm.verify.workers import Place, WorkerPool

RUN = layouts.toy(RunConfig(model=ModelConfig()))


def documents(batch: Batch) -> list[tuple[int, int, int]]:
    """(row, start, end) of every document that is not padding."""
    found = []
    for row in range(batch.rows):
        ends = batch.document_starts[row].tolist()
        spans = [(a, b) for a, b in itertools.pairwise(ends) if b > a]
        found += [(row, a, b) for a, b in spans if batch.loss_weight[row, a:b].any()]
    return found


def alone(batch: Batch, row: int, start: int, end: int) -> Batch:
    """One document of ``batch`` as a row of its own."""
    length = batch.sequence_length
    mine = (batch.image_blocks[:, 0] == row) & (batch.image_blocks[:, 1] >= start) & (batch.image_blocks[:, 2] <= end)
    flat = batch.patch_targets - row * length
    patches = (flat >= start) & (flat < end)
    cut = {
        name: getattr(batch, name)[row : row + 1, start:end]
        for name in ("tokens", "labels", "loss_weight", "positions", "modality", "source", "kind")
    }
    return replace(
        batch,
        **cut,
        document_starts=torch.tensor([[0, end - start]], dtype=torch.int32),
        image_blocks=batch.image_blocks[mine] - torch.tensor([row, start, start]),
        grids=batch.grids[mine],
        patches=batch.patches[patches],
        patch_targets=flat[patches] - start,
        sample_ids=((),),
    )


def _logits(place: Place, batches: list[Batch]) -> list[torch.Tensor]:
    from megatron_nmm.models.build import build

    with place.world(RUN.parallel, seed=5) as world:
        model = build(RUN, world)
        with torch.no_grad():
            return [model.module(batch, logits=True) for batch in batches]  # type: ignore[operator]


def test_packed_equals_unpacked(pool: WorkerPool) -> None:
    packed = synthetic.batches(RUN, 1, seed=11)[0]
    spans = documents(packed)
    assert {int(packed.kind[r, a]) for r, a, _ in spans} == {0, 1, 2}, "the test needs documents of every kind"
    together, *apart = pool.run(1, _logits, [packed, *(alone(packed, *span) for span in spans)])[0]
    for (row, start, end), single in zip(spans, apart, strict=True):
        torch.testing.assert_close(together[row, start:end], single[0], rtol=1e-5, atol=1e-5)


def test_changing_one_sample_moves_no_other(pool: WorkerPool) -> None:
    packed = synthetic.batches(RUN, 1, seed=11)[0]
    changed_row, first, last = next(span for span in documents(packed) if packed.kind[span[0], span[1]] == 2)
    tokens, patches = packed.tokens.clone(), packed.patches.clone()
    text = (packed.modality[changed_row] == 0).nonzero().squeeze(1)
    inside = text[(text >= first) & (text < last)]
    tokens[changed_row, inside] = 2 + (tokens[changed_row, inside] + 1) % (RUN.model.vocabulary - 2)
    flat = packed.patch_targets - changed_row * packed.sequence_length
    patches[(flat >= first) & (flat < last)] += 1.0
    before, after = pool.run(1, _logits, [packed, replace(packed, tokens=tokens, patches=patches)])[0]
    moved = (before != after).any(-1)
    assert moved[changed_row, first:last].all()
    moved[changed_row, first:last] = False
    assert not moved.any()
