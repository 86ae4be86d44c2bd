"""Writes real images with text for the quickstart: handwritten digits as captions, as sums of two images, and as text.

``OUT/images/*.png`` (32 x 32 grey) and ``OUT/{train,held_out}/{caption,interleaved,text}.jsonl``, one record a line:
    {"id": "caption-train-0007", "kind": "caption",
     "text": "<image> a handwritten seven.", "images": ["images/0042.png"]}
    {"id": "interleaved-train-00007", "kind": "interleaved",
     "text": "<image> plus <image> is eleven.", "images": ["images/0017.png", "images/1203.png"]}
    {"id": "text-train-34", "kind": "text", "text": "three plus four is seven.", "images": []}
``<image>`` marks the place of each image; image paths are relative to OUT. The images are the 1,797 handwritten digits
that scikit-learn carries (UCI, E. Alpaydin and C. Kaynak, 1998). Held-out images are in no training record of any kind;
held-out text records are sums of two numbers that no training text adds, in either order.

Run: python examples/data/digits.py OUT
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

UP_TO_NINE = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FROM_TEN = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen")
WORDS = UP_TO_NINE + FROM_TEN
HELD_OUT_IMAGES = 360
HELD_OUT_SUMS = 10
"""Unordered pairs of different numbers whose sum stands in no training text."""
SIDE = 32
SEED = 20
Record = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the data set and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write to")
    parser.add_argument(
        "--pairs", type=int, default=20_000, metavar="N", help="training records with two images (default 20000)"
    )
    parser.add_argument("--held-out-pairs", type=int, default=2_000, metavar="N", help="held-out ones (default 2000)")
    arguments = parser.parse_args(argv)
    try:
        counts = write(arguments.output, arguments.pairs, arguments.held_out_pairs)
    except OSError as error:
        print(
            f"error: writing {error.filename} failed: {error.strerror}; make room or give another OUT", file=sys.stderr
        )
        return 2
    for name, count in counts.items():
        print(f"{arguments.output / name}: {count:,}")
    return 0


def write(output: Path, pairs: int, held_out_pairs: int) -> dict[str, int]:
    """Write the images and the six record files; return name -> number written. The same in every run."""
    digits = load_digits()
    paths = _write_images(output, digits.images)
    order = np.random.RandomState(SEED).permutation(len(paths))
    splits = {
        "train": (order[HELD_OUT_IMAGES:], pairs, 1),
        "held_out": (order[:HELD_OUT_IMAGES], held_out_pairs, 2),
    }
    counts = {"images": len(paths)}
    for split, (members, number, stream) in splits.items():
        labels = [int(digits.target[member]) for member in members]
        images = [(paths[member], label) for member, label in zip(members, labels, strict=True)]
        records = {
            "caption": captions(split, images),
            "interleaved": sums_of_images(split, images, number, np.random.RandomState([SEED, stream])),
            "text": sums_of_words(split),
        }
        for kind, rows in records.items():
            counts[f"{split}/{kind}.jsonl"] = _write_jsonl(output / split / f"{kind}.jsonl", rows)
    return counts


def captions(split: str, images: list[tuple[str, int]]) -> Iterator[Record]:
    """One record per image."""
    for number, (path, label) in enumerate(images):
        text = f"<image> a handwritten {WORDS[label]}."
        yield {"id": f"caption-{split}-{number:04d}", "kind": "caption", "text": text, "images": [path]}


def sums_of_images(
    split: str, images: list[tuple[str, int]], count: int, random: np.random.RandomState
) -> Iterator[Record]:
    """``count`` records of two images drawn with replacement, in the order drawn."""
    for number, (first, second) in enumerate(random.randint(len(images), size=(count, 2))):
        (path_a, a), (path_b, b) = images[first], images[second]
        text = f"<image> plus <image> is {WORDS[a + b]}."
        name = f"interleaved-{split}-{number:05d}"
        yield {"id": name, "kind": "interleaved", "text": text, "images": [path_a, path_b]}


def sums_of_words(split: str) -> Iterator[Record]:
    """Every sum of two digits in words, except that the held-out sums and the others are in different splits."""
    held_out = held_out_sums()
    for a in range(10):
        for b in range(10):
            if (frozenset((a, b)) in held_out) == (split == "held_out"):
                text = f"{WORDS[a]} plus {WORDS[b]} is {WORDS[a + b]}."
                yield {"id": f"text-{split}-{a}{b}", "kind": "text", "text": text, "images": []}


def held_out_sums() -> set[frozenset[int]]:
    """The unordered pairs kept for validation."""
    pairs = [frozenset((a, b)) for a in range(10) for b in range(a)]
    chosen = np.random.RandomState(SEED).permutation(len(pairs))[:HELD_OUT_SUMS]
    return {pairs[number] for number in chosen}


def _write_images(output: Path, digits: npt.NDArray[np.float64]) -> list[str]:
    """Write every digit as a PNG; return the paths relative to ``output``. digits: [images, 8, 8], 0 to 16."""
    (output / "images").mkdir(parents=True, exist_ok=True)
    paths = []
    for number, digit in enumerate(digits):
        grey = Image.fromarray(np.round(digit * (255 / 16)).astype(np.uint8))
        path = f"images/{number:04d}.png"
        grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(output / path)
        paths.append(path)
    return paths


def _write_jsonl(path: Path, records: Iterator[Record]) -> int:
    """Write one record a line; return how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")
            count += 1
    return count


if __name__ == "__main__":
    sys.exit(main())
