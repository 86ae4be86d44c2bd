"""The image rule gives every image its grid and refuses sizes that do not fit."""

import pytest

from megatron_nmm.data.rule import Grid, ImageRule, rule_from_json
from megatron_nmm.errors import DataError


def test_square_rule_gives_every_image_the_same_grid() -> None:
    rule = ImageRule(image_size=224, patch=14)
    assert rule.grid(10, 4000) == rule.grid(224, 224) == Grid(16, 16)
    assert rule.tokens(Grid(16, 16)) == 256


def test_json_round_trip() -> None:
    rule = ImageRule(image_size=32, patch=8)
    assert rule_from_json(rule.to_json(), "here") == rule


@pytest.mark.parametrize(("size", "patch", "remedy"), [(225, 14, 224), (5, 8, 8)])
def test_sizes_that_do_not_fit_name_the_nearest(size: int, patch: int, remedy: int) -> None:
    with pytest.raises(DataError, match=f"image size {size} is not a multiple of patch {patch}; use {remedy}"):
        ImageRule(image_size=size, patch=patch)


def test_a_patch_without_pixels_is_refused() -> None:
    with pytest.raises(DataError, match="patch 0 is not a number of pixels; use 1 or more"):
        ImageRule(image_size=32, patch=0)


def test_unknown_rule_is_refused() -> None:
    with pytest.raises(DataError, match="here uses image rule 'pyramid', which this version does not know"):
        rule_from_json({"name": "pyramid"}, "here")
