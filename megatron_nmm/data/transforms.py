"""From RGB pixels to the numbers a model reads: crop and flip, resize, pad, normalise, cut into patches.

H, W pixels; C channels; p patch side; grid of rows x columns patches.
Every random choice is drawn from the generator handed in, so it depends on the sample and the epoch alone.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from megatron_nmm.data.decoders.protocol import Pixels

CROP_SCALE = (0.4, 1.0)
"""Share of the image's area a training crop keeps (P1 appendix A: RandomResizedCrop)."""
CROP_RATIO = (3 / 4, 4 / 3)
"""Width over height of a training crop."""
_CROP_TRIES = 10

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class Crop:
    """A part of an image of ``height`` x ``width`` pixels, perhaps mirrored."""

    height: int
    width: int
    box: Box
    mirrored: bool = False

    def least(self, height: int, width: int) -> tuple[int, int]:
        """Height and width the whole image needs for the part to fill ``height`` x ``width`` without enlarging it."""
        left, top, right, bottom = self.box
        return -(-height * self.height // (bottom - top)), -(-width * self.width // (right - left))

    def apply(self, pixels: Pixels, height: int, width: int) -> Pixels:
        """[height, width, 3] the part of ``pixels``, which show the whole image at this or a reduced scale."""
        down, across = pixels.shape[0] / self.height, pixels.shape[1] / self.width
        left, right = _scaled(self.box[0], self.box[2], across)
        top, bottom = _scaled(self.box[1], self.box[3], down)
        part = resize(pixels[top:bottom, left:right], height, width)
        return part[:, ::-1] if self.mirrored else part


def _scaled(first: int, last: int, scale: float) -> tuple[int, int]:
    """The pixels from ``first`` to ``last`` after scaling, at least one."""
    start = math.floor(first * scale + 0.5)
    end = math.floor(last * scale + 0.5)
    return (start, end) if end > start else (min(start, max(0, math.ceil(last * scale) - 1)), math.ceil(last * scale))


def sample_generator(seed: int, sample_id: str, epoch: int) -> np.random.Generator:
    """The random stream of one sample in one epoch, whatever rank, thread or order it is read in."""
    digest = hashlib.sha256(sample_id.encode()).digest()
    key = np.random.SeedSequence([seed, epoch, int.from_bytes(digest[:16], "little")])
    return np.random.Generator(np.random.Philox(key))


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """[height, width, 3] bicubic resize with antialiasing: Pillow's filter (a = -0.5, support grown by the reduction).

    Torch's 8-bit kernel, several times as fast as Pillow's and at most 2/255 away from it.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    for size in _passes(pixels.shape[0], pixels.shape[1], height, width):
        image = torch.nn.functional.interpolate(image, size=size, mode="bicubic", antialias=True)
    # The kernel gives planes, which is what patches are made of: another copy to interleave them would cost as much
    # as the resize itself.
    return image[0].permute(1, 2, 0).numpy()


def _passes(height: int, width: int, new_height: int, new_width: int) -> list[tuple[int, int]]:
    """The sizes to resize to in turn. Torch goes along rows first; so does Pillow, but (since 13.0) not for images
    that lose many more rows than columns. The order shows where overshoot is clipped between the two."""
    columns_first = 0 < height - new_height > 2 * (width - new_width)
    return [(new_height, width), (new_height, new_width)] if columns_first else [(new_height, new_width)]


def whole(height: int, width: int) -> Crop:
    """All of the image."""
    return Crop(height, width, (0, 0, width, height))


def centre(height: int, width: int) -> Crop:
    """The largest square in the middle: what P1's random crops see on average, for validation."""
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return Crop(height, width, (left, top, left + side, top + side))


def draw_crop(height: int, width: int, generator: np.random.Generator) -> Crop:
    """P1's augmentation: 0.4 to 1.0 of the area, of a shape from 3:4 to 4:3, mirrored half of the time."""
    box = random_crop(height, width, generator)
    return Crop(height, width, box, mirrored=bool(generator.random() < 0.5))


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


def pad(pixels: Pixels, height: int, width: int) -> Pixels:
    """[height, width, 3] with zeros to the right and below."""
    if pixels.shape[:2] == (height, width):
        return pixels
    padded = np.zeros((height, width, pixels.shape[2]), dtype=np.uint8)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    return padded


def patchify(pixels: Pixels, patch: int, shuffle: int = 1) -> npt.NDArray[np.uint8]:
    """[H, W, C] -> [rows * columns, C * p * p]: patches row by row; inside one, channel, then row, then column.

    With ``shuffle`` s > 1 the s x s patches that become one token stand together: squares row by row, and row by row
    inside a square (NaViL's merge groups).
    """
    height, width, channels = pixels.shape
    side = patch * shuffle
    rows, columns = height // side, width // side
    assert rows * side == height and columns * side == width, f"{height} x {width} is not a multiple of {side}"
    cut = pixels.reshape(rows, shuffle, patch, columns, shuffle, patch, channels).transpose(0, 3, 1, 4, 6, 2, 5)
    return cut.reshape(rows * columns * shuffle**2, channels * patch * patch)


def normalise(patches: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """uint8 0..255 to fp32 -1..1: mean 0.5 and deviation 0.5 of the unit range."""
    return patches.astype(np.float32) * np.float32(2 / 255) - np.float32(1)


def add_noise(
    patches: npt.NDArray[np.float32], deviation: float, generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Gaussian noise of this standard deviation added to normalised pixels."""
    noise = generator.standard_normal(patches.shape, dtype=np.float32)
    return patches + np.float32(deviation) * noise
