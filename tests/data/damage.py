"""Finished corpora whose images rot on disk: bytes flipped in images.bin, so that files keep their sizes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megatron_nmm.data.corpus import Corpus
from megatron_nmm.data.indexed import IndexedReader
from tests.data.corpora import record, write_images


def own_images(folder: Path, count: int) -> list[dict[str, Any]]:
    """``mixed_records`` in which no two samples share an image; writes the images."""
    write_images(folder, 2 * count)
    kinds = ("text", "caption", "interleaved")
    return [record(n, kinds[n % 3], [f"image-{2 * n + i}.png" for i in range(n % 3)]) for n in range(count)]


def rot(folder: Path, samples: Iterable[str]) -> None:
    """Flip every byte of the first image of the samples with these ids."""
    corpus = Corpus(folder)
    wanted = set(samples)
    found = [corpus.sample(number) for number in range(len(corpus))]
    for sample in found:
        if sample.id in wanted:
            shard, number = sample.images[0]
            wanted.remove(sample.id)
            _flip(folder / corpus.info["shards"][shard]["folder"] / "images", number)
    assert not wanted, f"no such samples: {wanted}"


def _flip(prefix: Path, number: int) -> None:
    lengths = IndexedReader(prefix).lengths
    start, length = int(lengths[:number].sum()), int(lengths[number])
    with prefix.with_suffix(".bin").open("r+b") as file:
        file.seek(start)
        content = file.read(length)
        file.seek(start)
        file.write(bytes(255 - byte for byte in content))
