"""Which patches a rank takes, in what order, and that every token finds its way back."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from megatron_nmm.config import DataConfig, ModelConfig, ParallelConfig, RunConfig, VisionConfig
from megatron_nmm.models.vision.grid import places, windows
from megatron_nmm.models.vision.placement import Placement, placement
from megatron_nmm.models.vision.share import shares, spread
from tests.models.vision import plain

GRIDS = [(2, 4), (6, 10), (4, 4), (2, 2), (8, 6)]


def vision(window: int, shuffle: int) -> VisionConfig:
    """Only what a share asks for."""
    return VisionConfig(depth=1, window=window, connector="pixel_shuffle" if shuffle == 2 else "linear")


def with_class_token(shuffle: int) -> VisionConfig:
    """The same of an encoder with a class token."""
    return replace(vision(0, shuffle), positions="table", table_side=4, class_token=True)


@pytest.mark.parametrize("shuffle", [1, 2])
@pytest.mark.parametrize("grid", GRIDS)
def test_places_follow_the_merge_groups(grid: tuple[int, int], shuffle: int) -> None:
    found = places(*grid, shuffle)
    assert list(zip(found.rows.tolist(), found.columns.tolist(), strict=True)) == plain.places(*grid, shuffle)


@pytest.mark.parametrize("shuffle", [1, 2])
@pytest.mark.parametrize("window", [2, 4, 8])
@pytest.mark.parametrize("grid", GRIDS)
def test_windows_are_the_squares_of_the_grid(grid: tuple[int, int], window: int, shuffle: int) -> None:
    found = windows(*grid, shuffle, window)
    units = [(r // window, c // window) for r, c in plain.places(*grid, shuffle)][:: shuffle**2]
    in_order = [units[group] for group in found.order]
    squares = [(square, shuffle**2 * len(list(same))) for square, same in itertools.groupby(in_order)]
    assert [square for square, _ in squares] == sorted(set(units))
    assert found.lengths.tolist() == [length for _, length in squares]


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("shuffle", [1, 2])
@pytest.mark.parametrize("multiple", [1, 32])
@pytest.mark.parametrize(("workers", "split"), [(1, 1), (1, 4), (2, 1), (2, 4), (7, 1)])
def test_every_token_comes_home(workers: int, split: int, multiple: int, shuffle: int, window: int) -> None:
    model, unit = vision(window, shuffle), shuffle**2
    plans = [shares(GRIDS, model, workers, worker, split, multiple) for worker in range(workers)]
    handed = []
    for plan in plans:
        assert plan.mine.views.sum() == plan.mine.windows.sum() == len(plan.mine.rows) == plan.mine.length
        assert plan.mine.length % (unit * split) == plan.mine.length % (multiple * split) == 0
        first = np.full(plan.tokens, -1)
        patches = plan.mine.patches.reshape(-1, unit)
        assert (np.diff(patches, axis=1) == 1).all(), "a merge group is never cut"
        first[: len(patches)] = patches[:, 0] // unit
        handed.append(first)
    every = np.concatenate(handed)
    total = sum(rows * columns for rows, columns in GRIDS) // unit
    for plan in plans:
        assert every[plan.home].tolist() == list(range(total))


@pytest.mark.parametrize("shuffle", [1, 2])
@pytest.mark.parametrize(("workers", "split", "multiple"), [(1, 1, 1), (1, 4, 32), (2, 2, 1), (7, 1, 1)])
def test_class_tokens_stand_behind_their_views_and_no_token_reads_them(
    workers: int, split: int, multiple: int, shuffle: int
) -> None:
    model, unit = with_class_token(shuffle), shuffle**2
    plans = [shares(GRIDS, model, workers, worker, split, multiple) for worker in range(workers)]
    units = []
    for plan in plans:
        mine = plan.mine
        assert mine.length % (unit * split) == mine.length % (multiple * split) == 0
        assert mine.class_rows.sum() == len(mine.grids) and len(mine.rows) == len(mine.columns) == mine.length
        patches = np.full(mine.length, -1)
        patches[: len(mine.patches)] = mine.patches
        ends, views = np.cumsum(mine.views), iter(mine.views.tolist())
        for rows, columns in mine.grids:
            assert next(views) == rows * columns + 1
            assert unit == 1 or next(views) == unit - 1
        # The class token is the last row of its view, and what fills its unit is neither.
        assert set(np.flatnonzero(mine.class_rows)) <= {end - 1 for end in ends}
        assert (patches[mine.class_rows] == -1).all()
        groups = np.pad(patches, (0, plan.tokens * unit - len(patches)), constant_values=-1).reshape(-1, unit)
        assert ((groups >= 0).all(1) | (groups < 0).all(1)).all(), "a unit is of patches or of none"
        units.append(groups[:, 0] // unit)
    total = sum(rows * columns for rows, columns in GRIDS) // unit
    for plan in plans:
        assert np.concatenate(units)[plan.home].tolist() == list(range(total))


@pytest.mark.parametrize(("workers", "split", "length"), [(1, 1, 4), (1, 2, 8), (2, 1, 4), (2, 2, 8)])
def test_without_images_one_unit_of_padding_stands_in(workers: int, split: int, length: int) -> None:
    plan = shares([], vision(4, 2), workers, workers - 1, split)
    assert plan.mine.views.tolist() == plan.mine.windows.tolist() == [length]
    assert len(plan.mine.patches) == len(plan.home) == 0
    assert plan.tokens == length // 4


def test_views_go_to_the_rank_with_least_to_do_the_largest_first() -> None:
    assert spread([5, 4, 3, 3, 3], 2) == [0, 1, 1, 0, 1]
    assert spread([7], 3) == [0]
    generator = np.random.default_rng(0)
    for _ in range(50):
        costs = generator.integers(1, 1000, 30).tolist()
        owner = spread(costs, 4)
        loads = [sum(cost for cost, rank in zip(costs, owner, strict=True) if rank == each) for each in range(4)]
        # Each view went to the rank that was behind, so no rank is ahead of another by more than one view.
        assert max(loads) - min(loads) <= max(costs)
        assert max(loads) < 1.1 * sum(costs) / 4


@pytest.mark.parametrize(
    ("tensor", "asked", "heads", "expected"),
    [
        (1, "data", 3, "tensor"),
        (2, "auto", 6, "tensor"),
        (2, "auto", 23, "data"),
        (2, "data", 6, "data"),
        (4, "auto", 6, "data"),
    ],
)
def test_placement(tensor: int, asked: str, heads: int, expected: Placement) -> None:
    parallel = ParallelConfig(tensor=tensor, vision=asked)  # type: ignore[arg-type]
    model = ModelConfig(vision=VisionConfig(depth=24, heads=heads, width=64 * heads))
    assert placement(RunConfig(model=model, parallel=parallel)) == expected


def test_an_mlp_that_does_not_divide_spreads_the_views_too() -> None:
    model = ModelConfig(vision=VisionConfig(depth=24, heads=4, ffn=1023))
    assert placement(RunConfig(model=model, parallel=ParallelConfig(tensor=2))) == "data"


def test_an_encoder_small_beside_its_decoder_is_spread_by_views() -> None:
    """0.3 B beside 70 B over eight ranks: 1.8 GB of tokens and gradients a step, or 7.0 GB of features."""
    vision = VisionConfig(depth=24, width=1024, heads=16, mlp="gelu", patch=14)
    large = ModelConfig(layers=80, width=8192, heads=64, query_groups=8, ffn=28_672, vocabulary=128_256, vision=vision)
    run = RunConfig(model=large, parallel=ParallelConfig(tensor=8), data=DataConfig(microbatch=8, sequence_length=8192))
    assert placement(run) == "data"
    assert placement(replace(run, data=replace(run.data, microbatch=1, sequence_length=1024))) == "tensor"
    assert placement(replace(run, model=replace(large, layers=10))) == "tensor"
    assert placement(replace(run, parallel=ParallelConfig(tensor=8, vision="tensor"))) == "tensor"
