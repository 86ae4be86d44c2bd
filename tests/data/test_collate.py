"""A batch is exactly what a plain loop over its samples would write, for random packings."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from megatron_nmm.data.batch import Batch
from megatron_nmm.data.collate import collate
from megatron_nmm.data.load import Loaded
from megatron_nmm.data.rule import Grid, NativeRule
from megatron_nmm.errors import DataError

IMAGE, PAD, EOS, VALUES, LENGTH = 4, 0, 3, 12, 40
SPECIAL = {"pad": PAD, "eos": EOS, "image": IMAGE, "begin_of_image": 5, "end_of_image": 6, "end_of_line": 7} | {
    "end_of_scale": 8
}
"""Tokens of text begin at 9."""


def _sample(random: np.random.RandomState, number: int) -> Loaded:
    """A random sample of text and up to three images, whose placeholders may touch."""
    tokens: list[int] = []
    patches, grids = [], []
    for _ in range(random.randint(0, 4)):
        tokens += random.randint(9, 50, size=random.randint(0, 3)).tolist()
        grid = Grid(random.randint(1, 3), random.randint(1, 3))
        tokens += [IMAGE] * grid.patches
        grids.append(grid)
        patches.append(random.rand(grid.patches, VALUES).astype(np.float32))
    tokens += [*random.randint(9, 50, size=random.randint(0, 4)).tolist(), EOS]
    return Loaded(
        id=f"s{number}",
        kind=int(random.randint(0, 3)),
        source=int(random.randint(0, 5)),
        tokens=np.array(tokens, dtype=np.int32),
        patches=tuple(patches),
        grids=tuple(grids),
    )


def _rows(seed: int) -> list[list[Loaded]]:
    """Rows filled with random samples; one of them empty, one full to the brim."""
    random = np.random.RandomState(seed)
    rows: list[list[Loaded]] = []
    for _ in range(3):
        row: list[Loaded] = []
        while len(row) < 6:
            sample = _sample(random, random.randint(1_000_000))
            if sum(len(s.tokens) for s in row) + len(sample.tokens) > LENGTH:
                break
            row.append(sample)
        rows.append(row)
    full = Loaded("full", 1, 2, np.array([*range(9, 8 + LENGTH), EOS], dtype=np.int32), (), ())
    return [*rows, [], [full]]


def _collate(rows: Sequence[Sequence[Loaded]]) -> Batch:
    return collate(rows, LENGTH, SPECIAL, VALUES)


def _expected_row(row: list[Loaded]) -> dict[str, list[int]]:
    """Each field of one row, position by position."""
    names = ("tokens", "labels", "loss_weight", "positions", "modality", "context", "source", "kind")
    out: dict[str, list[int]] = {name: [] for name in names}
    for sample in row:
        for place, token in enumerate(sample.tokens.tolist()):
            following = sample.tokens[place + 1] if place + 1 < len(sample.tokens) else IMAGE
            out["tokens"].append(token)
            out["labels"].append(0 if following == IMAGE else int(following))
            out["loss_weight"].append(int(following != IMAGE))
            out["positions"].append(place)
            out["modality"].append(int(token == IMAGE))
            out["context"].append(int(IMAGE in sample.tokens[: place + 1]))
            out["source"].append(sample.source)
            out["kind"].append(sample.kind)
    padding = LENGTH - len(out["tokens"])
    out["positions"] += range(padding)
    for name, values in out.items():
        values.extend([0] * (LENGTH - len(values)))
        assert len(values) == LENGTH, name
    return out


@pytest.mark.parametrize("seed", range(25))
def test_batch_equals_a_plain_loop(seed: int) -> None:
    rows = _rows(seed)
    batch = _collate(rows)
    for number, row in enumerate(rows):
        for name, values in _expected_row(row).items():
            assert getattr(batch, name)[number].tolist() == values, (name, number)
        ends = np.cumsum([0, *(len(sample.tokens) for sample in row)]).tolist()
        starts = batch.document_starts[number].tolist()
        assert starts == ends + [LENGTH] * (len(starts) - len(ends)) and starts[-1] == LENGTH
    fullest = max(len(row) + (sum(len(s.tokens) for s in row) < LENGTH) for row in rows)
    assert batch.document_starts.shape == (len(rows), fullest + 1)
    assert batch.sample_ids == tuple(tuple(sample.id for sample in row) for row in rows)


@pytest.mark.parametrize("seed", range(25))
def test_images_stand_where_their_placeholders_are(seed: int) -> None:
    rows = _rows(seed)
    batch = _collate(rows)
    samples = [sample for row in rows for sample in row]
    images = [image for sample in samples for image in sample.patches]
    grids = [grid for sample in samples for grid in sample.grids]
    assert batch.grids.tolist() == [[grid.rows, grid.columns] for grid in grids]
    assert len(batch.patch_targets) == len(batch.patches) == int(batch.modality.sum())
    assert (batch.tokens.flatten()[batch.patch_targets] == IMAGE).all()
    first = 0
    for (row, start, end), image in zip(batch.image_blocks.tolist(), images, strict=True):
        count = len(image)
        assert end - start == count
        np.testing.assert_array_equal(batch.patches[first : first + count].numpy(), image)
        assert batch.patch_targets[first : first + count].tolist() == [row * LENGTH + c for c in range(start, end)]
        first += count
    assert batch.image_blocks.tolist() == sorted(batch.image_blocks.tolist())


@pytest.mark.parametrize("shuffle", [1, 2])
def test_native_images_stand_row_by_row_between_their_layout(shuffle: int) -> None:
    rule = NativeRule(patch=2, min_patches=16, max_patches=64, multi_scale=True, shuffle=shuffle)
    special = {"image": IMAGE, "begin_of_image": 5, "end_of_image": 6, "end_of_line": 7, "end_of_scale": 8}
    views = rule.views(14, 12)
    assert len(views) == 3
    ids = rule.image_ids(views, special)
    tokens = np.array([20, *ids, 21, 22, *ids, 23, EOS], dtype=np.int32)
    grids = tuple(view.grid for view in views) * 2
    patches = tuple(np.full((grid.patches, VALUES), number, np.float32) for number, grid in enumerate(grids))
    other = Loaded("text", 0, 0, np.array([30, 31, EOS], dtype=np.int32), (), ())
    length = len(tokens) + 5
    rows = [[other], [other, Loaded("s", 2, 0, tokens, patches, grids)]]
    batch = collate(rows, length, SPECIAL, VALUES, shuffle=shuffle)

    placeholders = [length + column for column in range(length) if batch.tokens[1, column] == IMAGE]
    assert batch.patch_targets.tolist() == placeholders
    assert len(placeholders) * shuffle**2 == len(batch.patches) == sum(grid.patches for grid in grids)
    assert batch.modality[1].sum() == len(placeholders)
    taken = 0
    for (row, start, end), grid in zip(batch.image_blocks.tolist(), grids, strict=True):
        own = placeholders[taken : taken + grid.patches // shuffle**2]
        taken += len(own)
        assert (row, start, end) == (1, own[0] - length, own[-1] + 1 - length)
        assert end - start == len(own) + grid.rows // shuffle - 1
        assert set(batch.tokens[row, start:end].tolist()) == {IMAGE, 7}
    flat = batch.tokens.flatten()
    assert batch.visual_index.tolist() == [i for i, token in enumerate(flat.tolist()) if token in (IMAGE, 5)]
    assert batch.text_index.tolist() == [i for i, token in enumerate(flat.tolist()) if token not in (IMAGE, 5)]
    laid_out = [
        (i, {5: 4, 6: 3, 7: 10, 8: 11}[token]) for i, token in enumerate(flat.tolist()) if token in (5, 6, 7, 8)
    ]
    assert list(zip(batch.special_positions.tolist(), batch.special_rows.tolist(), strict=True)) == laid_out
    supervised = batch.labels[1][batch.loss_weight[1] == 1].tolist()
    assert supervised == [31, EOS, 21, 22, 23, EOS]


def test_types_are_those_of_the_contract() -> None:
    batch = _collate(_rows(0))
    assert batch.tokens.dtype == batch.labels.dtype == batch.positions.dtype == batch.modality.dtype == torch.int64
    assert batch.patch_targets.dtype == batch.image_blocks.dtype == batch.grids.dtype == torch.int64
    assert batch.source.dtype == batch.kind.dtype == torch.int64
    assert batch.loss_weight.dtype == batch.patches.dtype == torch.float32
    assert batch.document_starts.dtype == torch.int32


def test_rows_without_images_carry_no_patches() -> None:
    batch = _collate([[], []])
    assert batch.patches.shape == (0, VALUES) and batch.image_blocks.shape == (0, 3) and batch.grids.shape == (0, 2)
    assert batch.document_starts.tolist() == [[0, LENGTH]] * 2
    assert batch.loss_weight.sum() == 0


def _image_sample(placeholders: int, patches: int) -> Loaded:
    tokens = np.array([IMAGE] * placeholders + [9, EOS], dtype=np.int32)
    return Loaded("bad", 0, 0, tokens, (np.zeros((patches, VALUES), np.float32),), (Grid(1, patches),))


def test_placeholders_and_patches_must_agree_sample_by_sample() -> None:
    # Together the two samples have as many placeholders as patches, which must not hide the fault.
    with pytest.raises(DataError, match=r"sample 'bad' has 3 image placeholders for 4 patches.*tokenise it again"):
        _collate([[_image_sample(3, 4), _image_sample(5, 4)]])


def test_an_image_must_not_be_torn_apart() -> None:
    torn = Loaded(
        "torn", 0, 0, np.array([IMAGE, 9, IMAGE, EOS], np.int32), (np.zeros((2, VALUES), np.float32),), (Grid(1, 2),)
    )
    with pytest.raises(AssertionError, match="placeholders of an image are not contiguous"):
        _collate([[torn]])


def test_text_must_not_stand_inside_an_image() -> None:
    torn = Loaded(
        "torn", 0, 0, np.array([IMAGE, 7, 9, IMAGE, EOS], np.int32), (np.zeros((2, VALUES), np.float32),), (Grid(2, 1),)
    )
    with pytest.raises(AssertionError, match="placeholders of an image are not contiguous"):
        collate([[torn]], LENGTH, SPECIAL, VALUES)


def test_a_row_must_not_be_too_long() -> None:
    long = Loaded("long", 0, 0, np.full(LENGTH + 1, 9, np.int32), (), ())
    with pytest.raises(AssertionError, match="row 0 holds 41 tokens, more than 40"):
        _collate([[long]])


def test_patches_of_another_width_are_refused() -> None:
    with pytest.raises(AssertionError, match="patches of 12 values, the model has 48"):
        collate([[_image_sample(4, 4)]], LENGTH, SPECIAL, 48)
