"""From an image as found to the patches a model reads, number for number as training makes them.

H, W pixels; C channels; p patch side.
"""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

Pixels = npt.NDArray[np.uint8]
"""[H, W, 3] RGB."""


def flat(images: Any) -> Iterator[Any]:
    """The images of a list of any depth, or the one image."""
    if isinstance(images, list | tuple):
        for image in images:
            yield from flat(image)
    else:
        yield images


def rgb(image: Any) -> Pixels:
    """[H, W, 3] of a Pillow image, a file's path, bytes or data URI, or a uint8 array [H, W, 3] (numpy or torch).

    EXIF orientation is applied, transparency laid over white, 16-bit grey scaled to 8 bits. ValueError for others, a
    web address among them: nothing here touches the network.
    """
    if isinstance(image, str) and image.startswith(("data:", "http:", "https:")):
        image = _of_uri(image)
    if isinstance(image, str | Path):
        image = Image.open(image)
    elif isinstance(image, bytes):
        image = Image.open(io.BytesIO(image))
    if isinstance(image, Image.Image):
        return _of_pillow(ImageOps.exif_transpose(image))
    values = np.asarray(image)
    if values.dtype != np.uint8 or values.ndim != 3 or values.shape[2] != 3:
        raise ValueError(
            f"an image of {values.dtype} values and shape {list(values.shape)} is not understood; give a Pillow image, "
            "a path, bytes of a file, or uint8 [height, width, 3]"
        )
    return values


def _of_uri(uri: str) -> bytes:
    """The file in ``data:image/png;base64,...``, as chat servers hand images on."""
    head, comma, content = uri.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64") and comma):
        raise ValueError(f"image {uri[:60]!r} is not fetched; give its bytes, its path or a base64 data URI")
    return base64.b64decode(content)


def _of_pillow(image: Image.Image) -> Pixels:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        values: npt.NDArray[Any] = np.asarray(image)
        if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65_535:
            raise ValueError(f"grey values of mode {image.mode} have no defined scale; store the image with 8 bits")
        grey = ((values.astype(np.uint32) * 255 + 32_767) // 65_535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def centre(pixels: Pixels) -> Pixels:
    """The largest square in the middle."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """[height, width, 3] by bicubic interpolation with antialiasing, torch's 8-bit kernel.

    Rows first, as Pillow does it; columns first where many more rows than columns go.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    image = torch.tensor(pixels).permute(2, 0, 1)[None]
    sizes = [(height, width)]
    if 0 < pixels.shape[0] - height > 2 * (pixels.shape[1] - width):
        sizes.insert(0, (height, pixels.shape[1]))
    for size in sizes:
        image = torch.nn.functional.interpolate(image, size=size, mode="bicubic", antialias=True)
    return image[0].permute(1, 2, 0).numpy()


def pad(pixels: Pixels, height: int, width: int) -> Pixels:
    """[height, width, 3] with zeros to the right and below."""
    return np.pad(pixels, ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0)))


def patchify(pixels: Pixels, patch: int, merge: int) -> Pixels:
    """[H, W, C] -> [patches, C * p * p]: row by row; inside a patch channel, then row, then column.

    The merge x merge patches of one token stand together: squares row by row, and row by row inside a square.
    """
    height, width, channels = pixels.shape
    side = patch * merge
    cut = pixels.reshape(height // side, merge, patch, width // side, merge, patch, channels)
    return cut.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, channels * patch * patch)


def normalise(patches: Pixels, mean: float, std: float) -> npt.NDArray[np.float32]:
    """uint8 0..255 to fp32 (x / 255 - mean) / std."""
    return patches.astype(np.float32) * np.float32(1 / (255 * std)) - np.float32(mean / std)
