"""The levels of the native rule follow the released rounding, worked out here by hand and by a plain loop."""

import math
from itertools import pairwise

import pytest

from megatron_nmm.data.pyramid import Sized, pyramid
from megatron_nmm.errors import DataError

BUDGET = (256, 24_576)
"""NaViL's."""


def sizes(levels: list[Sized]) -> list[tuple[int, int]]:
    return [(level.height, level.width) for level in levels]


def test_an_image_within_the_limits_keeps_its_size() -> None:
    assert pyramid(500, 333, 16, BUDGET, levels=1) == [Sized(500, 333, (32, 22))]


def test_a_small_image_grows_to_the_fewest_patches() -> None:
    assert pyramid(64, 64, 16, BUDGET) == [Sized(256, 256, (16, 16))]
    (level,) = pyramid(30, 90, 16, BUDGET, levels=1)
    assert level.height * level.width >= 256 * 256
    assert (level.height, level.width) == (148, 444)


def test_a_large_image_shrinks_to_the_most_patches() -> None:
    (level,) = pyramid(3000, 4000, 16, BUDGET, levels=1)
    assert (level.height, level.width) == (2172, 2896)
    assert level.height * level.width <= 24_576 * 256
    # Limits count pixels before padding, so the grid may exceed them by the padding.
    assert level.grid == (136, 182) and level.patches == 24_752


def test_levels_halve_the_padded_pixels_and_start_from_the_original() -> None:
    levels = pyramid(768, 1024, 16, BUDGET)
    assert sizes(levels) == [(223, 297), (291, 388), (387, 516), (543, 724), (768, 1024)]
    assert [level.grid for level in levels] == [(14, 20), (20, 26), (26, 34), (34, 46), (48, 64)]
    for smaller, larger in pairwise(levels):
        budget = larger.patches * 256 / 2
        scale = math.sqrt(768 * 1024 / budget)
        assert (smaller.height, smaller.width) == (math.floor(768 / scale), math.floor(1024 / scale))
        assert smaller.height * smaller.width <= budget
    assert levels[0].patches / 2 < 256


def test_a_level_of_exactly_the_fewest_patches_is_made() -> None:
    # 16 x 32 patches: half of them are 256, which is not fewer than 256.
    assert sizes(pyramid(256, 512, 16, BUDGET)) == [(181, 362), (256, 512)]
    assert len(pyramid(256, 511, 16, (257, 24_576))) == 1


def test_levels_stop_when_padding_leaves_nothing_to_halve() -> None:
    # One pixel row padded to 32: a lower budget in pixels does not make it smaller.
    levels = pyramid(1, 100, 1, (1, 1000))
    assert sizes(levels) == [(1, 100)] and levels[0].grid == (2, 100)


@pytest.mark.parametrize(("height", "width"), [(1, 201), (500, 2)])
def test_too_thin_images_are_refused(height: int, width: int) -> None:
    with pytest.raises(DataError, match=rf"an image of {width} x {height} pixels is thinner than 1 : 200; crop or"):
        pyramid(height, width, 16, BUDGET)
    assert pyramid(1, 200, 16, BUDGET)


def test_every_shape_stays_within_its_limits() -> None:
    for height in range(1, 900, 37):
        for width in range(1, 900, 41):
            if max(height, width) > 200 * min(height, width):
                continue
            levels = pyramid(height, width, 16, (64, 512))
            assert levels[-1].patches >= 64 and levels[-1].height * levels[-1].width <= 512 * 256
            for level in levels:
                rows, columns = level.grid
                assert rows % 2 == columns % 2 == 0
                assert 0 <= rows * 16 - level.height < 32 and 0 <= columns * 16 - level.width < 32
            for smaller, larger in pairwise(levels):
                assert smaller.patches < larger.patches
