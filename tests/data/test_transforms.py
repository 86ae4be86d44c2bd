"""Patches are where the contract says, resizing is Pillow's, and randomness depends on the generator alone."""

import numpy as np
import pytest
from PIL import Image

from megatron_nmm.data.transforms import (
    CROP_RATIO,
    CROP_SCALE,
    Crop,
    add_noise,
    centre,
    draw_crop,
    normalise,
    pad,
    patchify,
    random_crop,
    resize,
    sample_generator,
    whole,
)
from tests.data.decoders.zoo import photo

PIXELS = np.random.RandomState(0).randint(0, 256, size=(12, 20, 3)).astype(np.uint8)


def pillow(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def distance(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.abs(first.astype(int) - second.astype(int)).max())


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patchify_equals_a_plain_loop(patch: int) -> None:
    patches = patchify(PIXELS, patch)
    rows, columns = 12 // patch, 20 // patch
    assert patches.shape == (rows * columns, 3 * patch * patch)
    for row in range(rows):
        for column in range(columns):
            assert patches[row * columns + column].tolist() == _patch(row, column, patch)


@pytest.mark.parametrize("patch", [1, 2])
def test_shuffled_patches_of_one_token_stand_together(patch: int) -> None:
    expected = []
    for square_row in range(12 // (2 * patch)):
        for square_column in range(20 // (2 * patch)):
            for row in range(2):
                for column in range(2):
                    expected.append(_patch(square_row * 2 + row, square_column * 2 + column, patch))
    assert patchify(PIXELS, patch, shuffle=2).tolist() == expected


def _patch(row: int, column: int, patch: int) -> list[int]:
    return [
        int(PIXELS[row * patch + y, column * patch + x, channel])
        for channel in range(3)
        for y in range(patch)
        for x in range(patch)
    ]


def test_patchify_refuses_a_size_that_does_not_divide() -> None:
    with pytest.raises(AssertionError, match="12 x 20 is not a multiple of 8"):
        patchify(PIXELS, 8)
    with pytest.raises(AssertionError, match="12 x 20 is not a multiple of 8"):
        patchify(PIXELS, 4, shuffle=2)


def test_padding_is_zero_to_the_right_and_below() -> None:
    padded = pad(PIXELS, 16, 32)
    assert padded.shape == (16, 32, 3)
    np.testing.assert_array_equal(padded[:12, :20], PIXELS)
    assert padded[12:].max() == padded[:, 20:].max() == 0
    assert pad(PIXELS, 12, 20) is PIXELS


def test_normalise_is_mean_and_deviation_one_half() -> None:
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_allclose(normalise(values), (values / 255 - 0.5) / 0.5, atol=1e-6)
    assert normalise(values).dtype == np.float32


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((300, 400), (224, 224)),
        ((384, 512), (56, 91)),
        ((60, 80), (224, 224)),
        ((37, 53), (36, 53)),
        ((1, 500), (32, 32)),
        ((500, 1), (32, 32)),
        ((1, 1), (16, 16)),
        ((2000, 3), (8, 8)),
        ((1600, 20), (300, 40)),
    ],
)
def test_resize_is_pillows_bicubic(source: tuple[int, int], target: tuple[int, int]) -> None:
    noise = np.random.RandomState(1).randint(0, 256, (*source, 3)).astype(np.uint8)
    step = np.zeros((*source, 3), np.uint8)
    step[source[0] // 2 :, : source[1] // 2 + 1] = 255
    for pixels in (photo(*source), noise, step):
        assert distance(resize(pixels, *target), pillow(pixels, *target)) <= 2


def test_resize_to_the_same_size_is_the_image_itself() -> None:
    assert resize(PIXELS, 12, 20) is PIXELS


def test_a_crop_is_the_resize_of_its_part() -> None:
    pixels = photo(60, 80)
    box = (10, 5, 70, 55)
    part = resize(pixels[5:55, 10:70], 32, 32)
    np.testing.assert_array_equal(Crop(60, 80, box).apply(pixels, 32, 32), part)
    np.testing.assert_array_equal(Crop(60, 80, box, mirrored=True).apply(pixels, 32, 32), part[:, ::-1])
    np.testing.assert_array_equal(whole(60, 80).apply(pixels, 32, 48), resize(pixels, 32, 48))


def test_centre_is_the_largest_square_in_the_middle() -> None:
    assert centre(60, 80).box == (10, 0, 70, 60)
    assert centre(81, 60).box == (0, 10, 60, 70)
    assert centre(50, 50) == whole(50, 50)


def test_least_is_what_a_part_needs_not_to_be_enlarged() -> None:
    crop = Crop(600, 800, (100, 100, 500, 400))
    assert crop.least(224, 224) == (448, 448)
    assert whole(600, 800).least(224, 336) == (224, 336)


def test_a_crop_of_a_reduced_image_shows_the_same_part() -> None:
    smooth = resize(photo(16, 24), 480, 640)
    half = resize(smooth, 240, 320)
    crop = Crop(480, 640, (101, 51, 501, 351))
    assert distance(crop.apply(half, 100, 100), crop.apply(smooth, 100, 100)) < 12
    # Parts that a reduction makes thinner than a pixel still show one.
    for box in [(639, 0, 640, 480), (0, 0, 1, 1), (3, 479, 4, 480)]:
        assert Crop(480, 640, box).apply(smooth[::8, ::8], 4, 4).shape == (4, 4, 3)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 300), (300, 20), (1, 50), (2, 1), (1, 1)])
def test_crops_stay_inside_and_keep_their_share(height: int, width: int) -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        left, top, right, bottom = random_crop(height, width, generator)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        if min(height, width) >= 32:
            area, ratio = (right - left) * (bottom - top), (right - left) / (bottom - top)
            assert CROP_SCALE[0] * 0.9 <= area / (height * width) <= CROP_SCALE[1]
            assert CROP_RATIO[0] * 0.9 <= ratio <= CROP_RATIO[1] * 1.1


def test_half_of_the_crops_are_mirrored() -> None:
    generator = np.random.default_rng(0)
    assert 150 < sum(draw_crop(32, 32, generator).mirrored for _ in range(400)) < 250


def test_noise_has_the_deviation_asked_for() -> None:
    patches = np.zeros((50, 192), np.float32)
    noisy = add_noise(patches, 0.25, np.random.default_rng(0))
    assert noisy.dtype == np.float32
    assert abs(noisy.std() - 0.25) < 0.01 and abs(noisy.mean()) < 0.01


def test_generators_depend_on_seed_sample_and_epoch_alone() -> None:
    draws = {
        key: tuple(sample_generator(*key).random(4)) for key in [(1, "a", 0), (2, "a", 0), (1, "b", 0), (1, "a", 1)]
    }
    assert len(set(draws.values())) == 4
    assert tuple(sample_generator(1, "a", 0).random(4)) == draws[1, "a", 0]
