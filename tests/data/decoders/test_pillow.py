"""Whatever an image file holds becomes the same well-defined RGB, or an error that says what is wrong."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from megatron_nmm.data.decoders import header
from megatron_nmm.data.decoders.header import read_size
from megatron_nmm.data.decoders.pillow import PillowDecoder
from megatron_nmm.data.decoders.protocol import Size
from megatron_nmm.errors import DataError
from tests.data.corpora import encode, png

RGB = np.random.RandomState(0).randint(0, 256, size=(5, 7, 3)).astype(np.uint8)
GREY = RGB[:, :, 0]


def _decode(image: Image.Image, kind: str = "PNG", **options: Any) -> Any:
    encoded = encode(image, kind, **options)
    pixels = PillowDecoder().decode(encoded)
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    assert read_size(encoded) == Size(*pixels.shape[:2])
    return pixels


def test_rgb_is_unchanged() -> None:
    np.testing.assert_array_equal(_decode(Image.fromarray(RGB)), RGB)


def test_grey_is_repeated() -> None:
    np.testing.assert_array_equal(_decode(Image.fromarray(GREY)), np.repeat(GREY[:, :, None], 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_grey_is_scaled_not_clipped(kind: str) -> None:
    deep = GREY.astype(np.uint16) * 257
    np.testing.assert_array_equal(_decode(Image.fromarray(deep), kind)[:, :, 1], GREY)


def test_float_grey_is_refused() -> None:
    with pytest.raises(DataError, match="grey values of mode F have no defined scale"):
        PillowDecoder().decode(encode(Image.fromarray(GREY.astype(np.float32)), "TIFF"))


def test_transparency_is_laid_over_white() -> None:
    alpha = np.zeros((5, 7, 1), np.uint8)
    alpha[:2] = 255
    pixels = _decode(Image.fromarray(np.concatenate([RGB, alpha], axis=2)))
    np.testing.assert_array_equal(pixels[:2], RGB[:2])
    assert (pixels[2:] == 255).all()


def test_palette_and_its_transparent_colour() -> None:
    palette = Image.new("P", (2, 2))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 1, 2])
    red, green, blue, white = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]
    assert _decode(palette).tolist() == [[red, green], [green, blue]]
    assert _decode(palette, transparency=1).tolist() == [[red, white], [white, blue]]


def test_cmyk_and_bilevel() -> None:
    assert _decode(Image.new("CMYK", (4, 4), (0, 0, 0, 0)), "JPEG").min() > 250
    assert _decode(Image.new("1", (4, 4), 1)).tolist() == [[[255, 255, 255]] * 4] * 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = _decode(Image.fromarray(RGB), exif=exif.tobytes())
    turned = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1),
        7: RGB[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(RGB),
    }
    np.testing.assert_array_equal(pixels, turned[orientation])


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert PillowDecoder().decode(buffer.getvalue())[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (b"", "the image file is empty"),
        (b"<html>not found</html>", "the bytes are no image of JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "the bytes are no image of JPEG, PNG"),
        (png(0)[:20], "the bytes are no image of JPEG, PNG"),
        (png(0, 64)[:2000], "the image cannot be decoded"),
    ],
)
def test_damaged_bytes_say_what_is_wrong(encoded: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        PillowDecoder().decode(encoded)


def _claims(side: int) -> bytes:
    """A small PNG whose header claims to be ``side`` x ``side`` pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return png(0)[:12] + header + struct.pack(">I", zlib.crc32(header)) + png(0)[33:]


def test_limits_hold_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="limit of 67108864 pixels; shrink it"):
        read_size(_claims(60_000))
    with pytest.raises(DataError, match="9000 x 9000 pixels, more than the limit of 67108864"):
        PillowDecoder().decode(_claims(9_000))
    monkeypatch.setattr(header, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="more than the limit of 10; shrink it"):
        read_size(png(0))
