"""A zoo of small image files: every kind a corpus may hold, and every way it may be broken."""

import io
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

SIDES = (40, 56)


def photo(height: int = SIDES[0], width: int = SIDES[1], seed: int = 0) -> np.ndarray:
    """[height, width, 3] smooth colours with some grain, as a photograph has."""
    rows, columns = np.mgrid[0:height, 0:width] / 17.0
    waves = [np.sin(rows + phase) + np.cos(columns * 1.3 - phase) for phase in (0.0, 1.0, 2.5)]
    grain = np.random.RandomState(seed).normal(0, 0.1, (height, width, 3))
    return np.clip((np.stack(waves, axis=2) / 4 + 0.5 + grain) * 255, 0, 255).astype(np.uint8)


def file(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    """The image as the bytes of a file."""
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def oriented(orientation: int) -> bytes:
    """The EXIF block that says so."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def claims(side: int) -> bytes:
    """A PNG of some hundred bytes whose header claims ``side`` x ``side`` pixels."""
    small = file(photo(8, 8), "PNG")
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


def jpeg_claims(side: int) -> bytes:
    """A small JPEG whose frame header claims ``side`` x ``side`` pixels."""
    small = bytearray(file(photo(8, 8), "JPEG"))
    at = small.index(b"\xff\xc0") + 5
    small[at : at + 4] = struct.pack(">HH", side, side)
    return bytes(small)


@cache
def sound() -> dict[str, bytes]:
    """Name -> a file that every decoder must read as the reference does."""
    colour, grey = photo(), photo()[:, :, 1]
    alpha = np.dstack([colour, np.linspace(0, 255, grey.size).reshape(grey.shape).astype(np.uint8)])
    palette = Image.fromarray(colour).quantize(16)
    frames = [Image.fromarray(photo(seed=seed)) for seed in (1, 2)]
    found = {
        "jpeg": file(colour, "JPEG", quality=90),
        "jpeg 4:4:4": file(colour, "JPEG", quality=90, subsampling=0),
        "jpeg 4:2:2": file(colour, "JPEG", quality=60, subsampling=1),
        "jpeg progressive": file(colour, "JPEG", quality=90, progressive=True),
        "jpeg grey": file(grey, "JPEG", quality=90),
        "jpeg RGB without YCC": file(colour, "JPEG", quality=90, keep_rgb=True),
        "jpeg CMYK": file(Image.fromarray(colour).convert("CMYK"), "JPEG", quality=90),
        "jpeg odd sides": file(photo(37, 53), "JPEG", quality=90),
        "jpeg with a tail": file(colour, "JPEG") + b"appended by some camera",
        "png": file(colour, "PNG"),
        "png grey": file(grey, "PNG"),
        "png bilevel": file(Image.fromarray(grey).convert("1"), "PNG"),
        "png 16-bit grey": file(grey.astype(np.uint16) * 257, "PNG"),
        "png alpha": file(alpha, "PNG"),
        "png grey with alpha": file(Image.fromarray(alpha).convert("LA"), "PNG"),
        "png palette": file(palette, "PNG"),
        "png palette with a transparent colour": file(palette, "PNG", transparency=3),
        "png animated": file(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "tiff 16-bit grey": file(grey.astype(np.uint16) * 257, "TIFF"),
        "bmp": file(colour, "BMP"),
        "gif": file(palette, "GIF"),
        "gif animated": file(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "webp": file(colour, "WEBP", quality=90),
        "webp lossless": file(colour, "WEBP", lossless=True),
        "webp alpha": file(alpha, "WEBP", quality=90),
        "webp animated": file(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "wrong extension": file(colour, "PNG"),
        "1 x 50": file(photo(1, 50), "JPEG"),
        "50 x 1": file(photo(50, 1), "PNG"),
        "1 x 1": file(photo(1, 1), "JPEG"),
    }
    for orientation in range(10):
        found[f"jpeg orientation {orientation}"] = file(photo(16, 32), "JPEG", exif=oriented(orientation))
        found[f"webp orientation {orientation}"] = file(photo(16, 32), "WEBP", exif=oriented(orientation))
    found["png orientation 6"] = file(photo(16, 32), "PNG", exif=oriented(6))
    return found


@cache
def broken() -> dict[str, bytes]:
    """Name -> a file that every decoder must refuse with the same words."""
    found = {
        "zero bytes": b"",
        "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "html in a JPEG's first bytes": b"\xff\xd8\xff\xe0<html>not found</html>",
        "bomb PNG": claims(60_000),
        "bomb PNG under Pillow's own limit": claims(9_000),
        "bomb JPEG": jpeg_claims(65_500),
        "bomb JPEG under Pillow's own limit": jpeg_claims(9_000),
        "float grey": file(photo()[:, :, 0].astype(np.float32), "TIFF"),
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    for name in ("jpeg", "jpeg progressive", "png", "webp", "webp lossless", "gif", "tiff 16-bit grey"):
        whole = sound()[name]
        found |= {f"{name} cut at {share} %": whole[: len(whole) * share // 100] for share in (10, 50, 90)}
    return found
