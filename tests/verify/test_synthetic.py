"""Synthetic batches obey the contract of Batch: documents, blocks, patches, labels and weights fit together."""

import itertools
from dataclasses import fields, replace

import pytest
import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.verify import layouts, synthetic
from megatron_nmm.verify.synthetic import FIRST_TEXT_TOKEN, IMAGE_TOKEN

RUN = layouts.toy(RunConfig())
SIDE = RUN.data.image_size // RUN.model.vision.patch
SEEDS = range(4)


def batch(seed: int, **options: object) -> Batch:
    """One microbatch."""
    return synthetic.batches(RUN, 1, seed, **options)[0]  # type: ignore[arg-type]


def spans(some: Batch) -> list[tuple[int, int, int]]:
    """(row, start, end) of every document, padding included."""
    rows = enumerate(some.document_starts.tolist())
    return [(row, a, b) for row, starts in rows for a, b in itertools.pairwise(starts) if b > a]


@pytest.mark.parametrize("seed", SEEDS)
def test_shapes_and_types_are_those_of_the_contract(seed: int) -> None:
    some = batch(seed)
    shape = (RUN.data.microbatch, RUN.data.sequence_length)
    for name in ("tokens", "labels", "positions", "modality", "source", "kind"):
        assert (getattr(some, name).shape, getattr(some, name).dtype) == (shape, torch.int64), name
    assert (some.loss_weight.shape, some.loss_weight.dtype) == (shape, torch.float32)
    assert some.document_starts.dtype == torch.int32
    assert some.patches.shape == (len(some.image_blocks) * SIDE * SIDE, RUN.model.vision.patch_values)
    assert some.patches.dtype == torch.float32
    assert some.grids.tolist() == [[SIDE, SIDE]] * len(some.image_blocks)
    assert len(some.sample_ids) == RUN.data.microbatch


@pytest.mark.parametrize("seed", SEEDS)
def test_documents_cover_each_row_and_positions_restart_with_each(seed: int) -> None:
    some = batch(seed)
    assert (some.document_starts[:, 0] == 0).all()
    assert (some.document_starts[:, -1] == RUN.data.sequence_length).all()
    assert (some.document_starts.diff() >= 0).all()
    for row, start, end in spans(some):
        assert some.positions[row, start:end].tolist() == list(range(end - start))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_document_has_one_kind_and_one_source_and_as_many_images_as_its_kind(seed: int) -> None:
    some = batch(seed, sources=2)
    for row, start, end in spans(some):
        assert len(some.kind[row, start:end].unique()) == len(some.source[row, start:end].unique()) == 1
        inside = (
            (some.image_blocks[:, 0] == row) & (some.image_blocks[:, 1] >= start) & (some.image_blocks[:, 2] <= end)
        )
        assert inside.sum() == some.kind[row, start]
    assert some.source.max() == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_blocks_tokens_modality_and_patches_name_the_same_positions(seed: int) -> None:
    some = batch(seed)
    from_blocks = torch.zeros_like(some.modality)
    for row, start, end in some.image_blocks.tolist():
        from_blocks[row, start:end] += 1
    assert torch.equal(from_blocks, some.modality), "blocks overlap or miss an image token"
    assert torch.equal(some.tokens == IMAGE_TOKEN, some.modality == 1)
    assert some.patch_targets.tolist() == some.modality.reshape(-1).nonzero().squeeze(1).tolist()
    assert some.image_blocks.tolist() == sorted(some.image_blocks.tolist())
    text = some.tokens[(some.modality == 0) & (some.tokens != 0)]
    assert text.min() >= FIRST_TEXT_TOKEN and text.max() < RUN.model.vocabulary


@pytest.mark.parametrize("seed", SEEDS)
def test_the_next_text_token_of_the_same_document_is_supervised_and_nothing_else(seed: int) -> None:
    some = batch(seed)
    expected = torch.zeros_like(some.loss_weight)
    for row, start, end in spans(some):
        for at in range(start, end - 1):
            if some.tokens[row, at + 1] >= FIRST_TEXT_TOKEN:
                expected[row, at] = 1
                assert some.labels[row, at] == some.tokens[row, at + 1]
    assert torch.equal(some.loss_weight, expected)
    assert not some.labels[some.loss_weight == 0].any()
    assert expected.sum() > 0


def test_without_images_all_is_text() -> None:
    some = batch(0, images=False)
    assert len(some.patches) == len(some.image_blocks) == len(some.grids) == len(some.patch_targets) == 0
    assert some.patches.shape == (0, RUN.model.vision.patch_values)
    assert some.image_blocks.shape == (0, 3)
    assert not some.modality.any() and not some.kind.any()
    assert some.loss_weight.any()


def test_the_seed_decides_everything_and_batches_differ() -> None:
    first, again = (synthetic.batches(RUN, 3, seed=5, sources=2) for _ in range(2))
    other = synthetic.batches(RUN, 3, seed=6, sources=2)
    tensors = [f.name for f in fields(Batch) if f.name != "sample_ids"]
    for mine, same in zip(first, again, strict=True):
        assert all(torch.equal(getattr(mine, name), getattr(same, name)) for name in tensors)
    assert not torch.equal(first[0].tokens, first[1].tokens)
    assert not torch.equal(first[0].tokens, other[0].tokens)
    prefix = synthetic.batches(RUN, 2, seed=5, sources=2)
    assert torch.equal(prefix[1].tokens, first[1].tokens), "how many are asked for must not change the first"


def test_another_run_gives_another_shape() -> None:
    wide = replace(RUN, data=replace(RUN.data, sequence_length=160, microbatch=3))
    assert synthetic.batches(wide, 1, seed=0)[0].tokens.shape == (3, 160)
