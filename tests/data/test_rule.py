"""The image rule gives every image its views and token ids and refuses sizes that do not fit."""

from typing import Any

import pytest

from megatron_nmm.data.rule import (
    Grid,
    ImageRule,
    NativeRule,
    SquareRule,
    View,
    layout_ids,
    rule_from_json,
    rule_of,
)
from megatron_nmm.errors import DataError

SPECIAL = {"pad": 0, "image": 4, "begin_of_image": 5, "end_of_image": 6, "end_of_line": 7, "end_of_scale": 8}
IMAGE, BEGIN, END, LINE, SCALE = 4, 5, 6, 7, 8
SQUARE = SquareRule(image_size=32, patch=8)
NATIVE = NativeRule(patch=16, min_patches=4, max_patches=128, multi_scale=True, shuffle=2)


def test_square_rule_gives_every_image_the_same_view() -> None:
    rule = SquareRule(image_size=224, patch=14)
    views = rule.views(10, 4000)
    assert views == rule.views(224, 224) == (View(Grid(16, 16), 224, 224),)
    assert rule.patches(views) == 256
    assert rule.image_ids(views, SPECIAL) == [IMAGE] * 256


def test_native_rule_lays_out_rows_and_scales() -> None:
    views = NATIVE.views(128, 192)
    assert views == (
        View(Grid(4, 6), 64, 96),
        View(Grid(6, 8), 71, 107),
        View(Grid(6, 10), 90, 135),
        View(Grid(8, 12), 128, 192),
    )
    assert NATIVE.patches(views) == 24 + 48 + 60 + 96
    assert NATIVE.image_ids(views[:1], SPECIAL) == [BEGIN, *[IMAGE, IMAGE, IMAGE, LINE] * 2, SCALE, END]
    expected = [BEGIN]
    for rows, columns in [(2, 3), (3, 4), (3, 5), (4, 6)]:
        for _ in range(rows):
            expected += [IMAGE] * columns + [LINE]
        expected.append(SCALE)
    assert NATIVE.image_ids(views, SPECIAL) == [*expected, END]


def test_early_fusion_has_one_token_per_patch_of_the_same_pixels() -> None:
    single = rule_of("native", patch=16, image_size=224, min_patches=4, max_patches=128, shuffle=1)
    views = single.views(64, 96)
    assert views == NATIVE.views(64, 96)[-1:]
    assert single.image_ids(views, SPECIAL) == [BEGIN, *([IMAGE] * 6 + [LINE]) * 4, SCALE, END]


def test_tokens_stand_for_all_patches() -> None:
    for height, width in [(10, 10), (33, 400), (512, 512), (700, 40)]:
        views = NATIVE.views(height, width)
        assert NATIVE.image_ids(views, SPECIAL).count(IMAGE) * 4 == NATIVE.patches(views)


def test_layout_ids_are_the_tokens_around_placeholders() -> None:
    used = set(NATIVE.image_ids(NATIVE.views(64, 64), SPECIAL)) - {IMAGE}
    assert used == set(layout_ids(SPECIAL))


@pytest.mark.parametrize("rule", [SQUARE, NATIVE])
def test_json_round_trip(rule: ImageRule) -> None:
    assert rule_from_json(rule.to_json(), "here") == rule


def test_rules_are_made_by_name() -> None:
    assert rule_of("square", patch=8, image_size=32) == SQUARE
    native = rule_of("native", patch=16, image_size=32, min_patches=4, max_patches=128, multi_scale=True, shuffle=2)
    assert native == NATIVE
    with pytest.raises(DataError, match="image rule 'round' is unknown; use square or native"):
        rule_of("round", patch=16, image_size=32)


def test_settings_name_the_keys_of_a_run() -> None:
    assert SQUARE.settings() == "data.image_size=32 and model.vision.patch=8"
    assert NATIVE.settings().startswith("data.image_rule=native, data.min_patches=4, data.max_patches=128, ")


@pytest.mark.parametrize(("size", "patch", "remedy"), [(225, 14, 224), (5, 8, 8)])
def test_sizes_that_do_not_fit_name_the_nearest(size: int, patch: int, remedy: int) -> None:
    with pytest.raises(DataError, match=f"image size {size} is not a multiple of patch {patch}; use {remedy}"):
        SquareRule(image_size=size, patch=patch)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patch": 0}, "patch 0 is not a number of pixels; use 1 or more"),
        ({"min_patches": 129}, "min_patches 129 and max_patches 128 leave no image between them"),
        ({"min_patches": 0}, "min_patches 0 and max_patches 128"),
        ({"shuffle": 3}, "shuffle 3 does not divide the 2 patches of padding; use 1 or 2"),
    ],
)
def test_native_values_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        NativeRule(**(NATIVE.to_json() | values))


@pytest.mark.parametrize("values", [{"name": "round"}, {"name": "square", "patch": 8}, SQUARE.to_json() | {"x": 1}, {}])
def test_unknown_rules_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"here uses image rule .*, which this version does not know"):
        rule_from_json(values, "here")
