"""From RGB pixels to the numbers a model reads: crop and flip, resize, normalise, cut into patches.

H, W pixels; C channels; p patch side; grid of rows x columns patches.
Every random choice is drawn from the generator handed in, so it depends on the sample and the epoch alone.
"""

import hashlib
import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from megatron_nmm.data.images import Pixels

CROP_SCALE = (0.4, 1.0)
"""Share of the image's area a training crop keeps (P1 appendix A: RandomResizedCrop)."""
CROP_RATIO = (3 / 4, 4 / 3)
"""Width over height of a training crop."""
_CROP_TRIES = 10

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


def sample_generator(seed: int, sample_id: str, epoch: int) -> np.random.Generator:
    """The random stream of one sample in one epoch, whatever rank, thread or order it is read in."""
    digest = hashlib.sha256(sample_id.encode()).digest()
    key = np.random.SeedSequence([seed, epoch, int.from_bytes(digest[:16], "little")])
    return np.random.Generator(np.random.Philox(key))


def resize(pixels: Pixels, size: int, box: Box | None = None) -> Pixels:
    """[size, size, 3] bicubic resize of the image, or of ``box`` of it."""
    if box is None and pixels.shape[:2] == (size, size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC, box=box))


def augment(pixels: Pixels, size: int, generator: np.random.Generator) -> Pixels:
    """[size, size, 3]: a random crop of 0.4 to 1.0 of the area, resized, mirrored half of the time."""
    cropped = resize(pixels, size, random_crop(pixels.shape[0], pixels.shape[1], generator))
    return cropped[:, ::-1] if generator.random() < 0.5 else cropped


def random_crop(height: int, width: int, generator: np.random.Generator) -> Box:
    """A box of random area and shape inside the image; the largest centred one of a legal shape if ten draws miss."""
    for _ in range(_CROP_TRIES):
        area = height * width * generator.uniform(*CROP_SCALE)
        ratio = math.exp(generator.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(generator.integers(0, width - crop_width + 1))
            top = int(generator.integers(0, height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    ratio = min(max(width / height, CROP_RATIO[0]), CROP_RATIO[1])
    crop_width, crop_height = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + max(1, crop_width), top + max(1, crop_height)


def patchify(pixels: Pixels, patch: int) -> npt.NDArray[np.uint8]:
    """[H, W, C] -> [rows * columns, C * p * p]: patches row by row; inside one, channel, then row, then column."""
    height, width, channels = pixels.shape
    rows, columns = height // patch, width // patch
    assert rows * patch == height and columns * patch == width, f"{height} x {width} is not a multiple of {patch}"
    cut = pixels.reshape(rows, patch, columns, patch, channels).transpose(0, 2, 4, 1, 3)
    return cut.reshape(rows * columns, channels * patch * patch)


def normalise(patches: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """uint8 0..255 to fp32 -1..1: mean 0.5 and deviation 0.5 of the unit range."""
    return patches.astype(np.float32) * np.float32(2 / 255) - np.float32(1)


def add_noise(
    patches: npt.NDArray[np.float32], deviation: float, generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Gaussian noise of this standard deviation added to normalised pixels."""
    noise = generator.standard_normal(patches.shape, dtype=np.float32)
    return patches + np.float32(deviation) * noise
