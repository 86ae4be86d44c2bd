"""Patches are where the contract says, and randomness depends on the generator alone."""

import numpy as np
import pytest
from PIL import Image

from megatron_nmm.data.transforms import (
    CROP_RATIO,
    CROP_SCALE,
    add_noise,
    augment,
    normalise,
    patchify,
    random_crop,
    resize,
    sample_generator,
)

PIXELS = np.random.RandomState(0).randint(0, 256, size=(12, 20, 3)).astype(np.uint8)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patchify_equals_a_plain_loop(patch: int) -> None:
    patches = patchify(PIXELS, patch)
    rows, columns = 12 // patch, 20 // patch
    assert patches.shape == (rows * columns, 3 * patch * patch)
    for row in range(rows):
        for column in range(columns):
            values = [
                PIXELS[row * patch + y, column * patch + x, channel]
                for channel in range(3)
                for y in range(patch)
                for x in range(patch)
            ]
            assert patches[row * columns + column].tolist() == values


def test_patchify_refuses_a_size_that_does_not_divide() -> None:
    with pytest.raises(AssertionError, match="12 x 20 is not a multiple of 8"):
        patchify(PIXELS, 8)


def test_normalise_is_mean_and_deviation_one_half() -> None:
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_allclose(normalise(values), (values / 255 - 0.5) / 0.5, atol=1e-6)
    assert normalise(values).dtype == np.float32


def test_resize_is_pillows_bicubic() -> None:
    expected = np.asarray(Image.fromarray(PIXELS).resize((8, 8), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize(PIXELS, 8), expected)
    square = PIXELS[:12, :12]
    np.testing.assert_array_equal(resize(square, 12), square)


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


def test_augment_flips_half_of_the_time() -> None:
    # A step from black to white: its side tells whether the image was mirrored.
    step = np.zeros((32, 32, 3), np.uint8)
    step[:, 16:] = 255
    generator = np.random.default_rng(0)
    mirrored = 0
    for _ in range(400):
        out = augment(step, 32, generator)
        assert out.shape == (32, 32, 3)
        mirrored += int(out[:, 0].mean() > out[:, -1].mean())
    assert 150 < mirrored < 250


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
