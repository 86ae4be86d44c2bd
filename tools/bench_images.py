"""Images per second from encoded JPEG to normalised patches: every installed decoder against plain Pillow.

    python tools/bench_images.py                 # 1024 x 768 to 448 x 448 and to 448 x 336
    python tools/bench_images.py --threads 4 --rounds 15

Plain Pillow: Image.open, convert("RGB"), bicubic resize to the same size, numpy normalisation. Ours: data.decoder and
data.decode as named, resize, normalisation and cutting into patches on top. The photographs are scikit-learn's two,
scaled and cut to 1024 x 768, JPEG quality 90 with 4:2:0 chroma. Everyone uses the same threads and takes turns, a round
each, so that drift of the machine hits all; speed is the median over rounds, the ratio the median of the rounds'
ratios. Differences are 8-bit levels from plain Pillow's resized pixels. Needs the extra "examples".
"""

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from megatron_nmm.config.arguments import positive
from megatron_nmm.config.refusal import refuse
from megatron_nmm.data.decoders.protocol import Decoder, Pixels
from megatron_nmm.data.decoders.select import Decode, choose, installed
from megatron_nmm.data.load import to_patches
from megatron_nmm.data.rule import Grid, SquareRule, View
from megatron_nmm.data.transforms import whole
from megatron_nmm.errors import ConfigError, NMMError

SOURCE = (768, 1024)
"""Height and width of the photographs."""
TARGETS = ((448, 448), (336, 448))
"""Heights and widths to resize to: a square (rule square), and the same shape with a long side of 448."""
RULE = SquareRule(image_size=448, patch=14)
MODES: tuple[Decode, ...] = ("exact", "fast")
PHOTOGRAPHS = ("china.jpg", "flower.jpg")

Work = Callable[[bytes], object]


@dataclass
class Contender:
    """One way from bytes to numbers, and how it did."""

    name: str
    mode: str
    work: Work
    pixels: Callable[[bytes], Pixels]
    """Its resized pixels, for the differences."""
    seconds: list[float] = field(default_factory=list)
    """Per round, for one image."""


def main() -> int:
    """Race, print the tables."""
    arguments = parse()
    console = Console(width=120)
    try:
        photographs = list(load())
        torch.set_num_threads(1)
        with ThreadPoolExecutor(arguments.threads) as threads:
            tables = [bench(target, photographs, arguments, threads) for target in TARGETS]
    except NMMError as error:
        return refuse(error)
    for table in tables:
        console.print(table)
    for name in installed():
        console.print(f"{name}: {choose(name, 'exact').describe()}")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=positive, default=2, help="threads that decode (default 2)")
    parser.add_argument("--rounds", type=positive, default=9, help="turns of every contender (default 9)")
    parser.add_argument("--images", type=positive, default=40, help="images in a turn (default 40)")
    return parser.parse_args()


def load() -> Iterator[bytes]:
    """The two photographs as JPEG files."""
    if find_spec("sklearn") is None:
        raise ConfigError("the photographs come with scikit-learn, which is missing; run 'pip install -e .[examples]'")
    from sklearn.datasets import load_sample_image

    height, width = SOURCE
    for name in PHOTOGRAPHS:
        photograph = Image.fromarray(load_sample_image(name))
        scale = max(width / photograph.width, height / photograph.height)
        size = (round(photograph.width * scale), round(photograph.height * scale))
        resized = photograph.resize(size, Image.Resampling.BICUBIC).crop((0, 0, width, height))
        buffer = io.BytesIO()
        resized.save(buffer, "JPEG", quality=90)
        yield buffer.getvalue()


def plain_pixels(target: tuple[int, int], encoded: bytes) -> Pixels:
    """[height, width, 3] by Pillow alone."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    return np.asarray(image.resize(target[::-1], Image.Resampling.BICUBIC))


def plain_work(target: tuple[int, int], encoded: bytes) -> npt.NDArray[np.floating[Any]]:
    """[height, width, 3] normalised to -1..1, as most loaders do it."""
    return (plain_pixels(target, encoded).astype(np.float32) / 255 - 0.5) / 0.5


def our_pixels(decoder: Decoder, target: tuple[int, int], encoded: bytes) -> Pixels:
    """[height, width, 3] as Loader makes them of a whole image."""
    crop = whole(*SOURCE)
    return crop.apply(decoder.decode(encoded, crop.least(*target)), *target)


def our_work(decoder: Decoder, target: tuple[int, int], encoded: bytes) -> npt.NDArray[np.float32]:
    """[patches, C * p * p] as Loader makes them."""
    view = View(Grid(target[0] // RULE.patch, target[1] // RULE.patch), *target)
    return to_patches(our_pixels(decoder, target, encoded), view, RULE)


def contenders(target: tuple[int, int]) -> list[Contender]:
    """Plain Pillow, then every decoder in both modes."""
    found = [Contender("plain Pillow", "", partial(plain_work, target), partial(plain_pixels, target))]
    for name in installed():
        for mode in MODES:
            decoder = choose(name, mode)
            found.append(
                Contender(name, mode, partial(our_work, decoder, target), partial(our_pixels, decoder, target))
            )
    return found


def bench(
    target: tuple[int, int], photographs: list[bytes], arguments: argparse.Namespace, threads: ThreadPoolExecutor
) -> Table:
    """The table of one target size."""
    racing = contenders(target)
    files = (photographs * arguments.images)[: arguments.images]
    for one in racing:
        list(threads.map(one.work, files[: 2 * arguments.threads]))
    for _ in track(range(arguments.rounds), description=f"to {target[1]} x {target[0]}", transient=True):
        for one in racing:
            start = time.perf_counter()
            for _done in threads.map(one.work, files):
                pass
            one.seconds.append((time.perf_counter() - start) / len(files))
    return report(target, photographs, racing, arguments)


def report(
    target: tuple[int, int], photographs: list[bytes], racing: list[Contender], arguments: argparse.Namespace
) -> Table:
    """Speeds, ratios and differences."""
    table = Table(
        title=f"1024 x 768 JPEG to {target[1]} x {target[0]}, threads: {arguments.threads}, "
        f"median of {arguments.rounds} rounds of {arguments.images} images"
    )
    for column in ("data.decoder", "data.decode"):
        table.add_column(column)
    for column in ("images/s", "x plain Pillow", "largest difference", "mean difference"):
        table.add_column(column, justify="right")
    plain = racing[0]
    reference = [plain.pixels(encoded).astype(np.int16) for encoded in photographs]
    for one in racing:
        ratios = [theirs / ours for theirs, ours in zip(plain.seconds, one.seconds, strict=True)]
        away = [np.abs(one.pixels(e) - pixels) for e, pixels in zip(photographs, reference, strict=True)]
        table.add_row(
            one.name,
            one.mode,
            f"{1 / statistics.median(one.seconds):.0f}",
            f"{statistics.median(ratios):.2f}",
            f"{max(int(levels.max()) for levels in away)}/255",
            f"{statistics.fmean(float(levels.mean()) for levels in away):.3f}/255",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
