"""The table of positions: its interpolation is torch's, and every row of a share gets the vector of its place."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from megatron_nmm.config import VisionConfig
from megatron_nmm.models.vision.positions import PositionTable, cubic, order_of
from megatron_nmm.models.vision.share import shares
from tests.models.vision import plain

GRIDS = [(2, 4), (4, 4), (2, 4), (6, 10), (4, 4)]


def vision(shuffle: int, class_token: bool, window: int = 0) -> VisionConfig:
    """Only what a share and a table ask for."""
    return VisionConfig(
        depth=1,
        width=8,
        positions="table",
        table_side=4,
        class_token=class_token,
        window=window,
        connector="pixel_shuffle" if shuffle == 2 else "linear",
    )


@pytest.mark.parametrize(("inputs", "outputs"), [(32, 32), (32, 16), (32, 40), (16, 33), (4, 1), (1, 5), (3, 2)])
def test_cubic_weights_are_those_of_torch(inputs: int, outputs: int) -> None:
    table = torch.eye(inputs, dtype=torch.float64)[None, None]
    expected = interpolate(table, size=(outputs, inputs), mode="bicubic", align_corners=False)[0, 0]
    # Down alone: every column of the identity is one input.
    np.testing.assert_allclose(cubic(inputs, outputs), expected, atol=2e-7)


def test_a_table_of_the_right_size_is_taken_as_it_is() -> None:
    assert np.array_equal(cubic(7, 7), np.eye(7))


@pytest.mark.parametrize(("class_token", "window"), [(False, 0), (False, 4), (True, 0)])
@pytest.mark.parametrize("shuffle", [1, 2])
@pytest.mark.parametrize(("workers", "split"), [(1, 1), (2, 1), (1, 4), (3, 2)])
def test_every_row_gets_the_vector_of_its_place(
    workers: int, split: int, shuffle: int, class_token: bool, window: int
) -> None:
    model = vision(shuffle, class_token, window)
    config = SimpleNamespace(params_dtype=torch.float64, init_method=torch.nn.init.normal_)
    module = PositionTable(config, model)
    table = module.table[model.class_token :].reshape(4, 4, 8).permute(2, 0, 1)[None]
    for worker in range(workers):
        share = shares(GRIDS, model, workers, worker, split).mine
        length = share.length // split
        parts = [slice(rank * length, (rank + 1) * length) for rank in range(split)]
        # What the stem says of rows without a patch is dropped for the class token, and not looked at in padding.
        found = torch.cat([module(torch.ones(length, 8, dtype=torch.float64), share, part) for part in parts])
        row = 0
        for rows, columns in share.grids:
            places = plain.places(rows, columns, shuffle)
            where = list(zip(share.rows[row : row + len(places)], share.columns[row : row + len(places)], strict=True))
            assert sorted(where) == sorted(places)
            stretched = interpolate(table, size=(rows, columns), mode="bicubic", align_corners=False)[0]
            expected = torch.stack([stretched[:, r, c] for r, c in where]) + 1
            torch.testing.assert_close(found[row : row + len(places)], expected, rtol=1e-6, atol=1e-6)
            row += len(places)
            if class_token:
                torch.testing.assert_close(found[row], module.class_token + module.table[0])
                row += share.class_unit
        assert sorted(order_of(share).tolist()) == list(range(share.length))


def test_a_share_without_images_has_a_gradient_of_its_own() -> None:
    config = SimpleNamespace(params_dtype=torch.float32, init_method=torch.nn.init.normal_)
    module = PositionTable(config, vision(2, True))
    share = shares([], vision(2, True), 1, 0, 2).mine
    module(torch.zeros(8, 8), share, slice(0, 8)).mul(0).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())
