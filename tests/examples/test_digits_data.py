"""The digits data set is split by image, says what its images show, and is the same in every run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from examples.data.digits import HELD_OUT_IMAGES, WORDS, write
from megatron_nmm.data.raw.record import Record
from megatron_nmm.data.raw.units import plan_units, read_unit

PAIRS, HELD_OUT_PAIRS = 300, 50
KINDS = ("caption", "interleaved", "text")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set with few pairs."""
    folder = tmp_path_factory.mktemp("digits")
    write(folder, PAIRS, HELD_OUT_PAIRS)
    return folder


def _records(folder: Path, split: str, kind: str) -> list[dict[str, Any]]:
    lines = (folder / split / f"{kind}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _images(folder: Path, split: str) -> set[str]:
    return {image for kind in KINDS for record in _records(folder, split, kind) for image in record["images"]}


def test_every_record_is_usable(digits: Path) -> None:
    ids = set()
    for split in ("train", "held_out"):
        for kind in KINDS:
            (unit,) = plan_units([str(digits / split / f"{kind}.jsonl")])
            for _, record in read_unit(unit, None):
                assert isinstance(record, Record) and record.kind == kind
                assert all((digits / image.name).is_file() for image in record.images)
                assert record.id not in ids
                ids.add(record.id)
    assert len(ids) == 1797 + PAIRS + HELD_OUT_PAIRS + 100


def test_held_out_images_are_in_no_training_record(digits: Path) -> None:
    train, held_out = _images(digits, "train"), _images(digits, "held_out")
    assert not train & held_out
    assert len(held_out) == HELD_OUT_IMAGES and len(train) == 1797 - HELD_OUT_IMAGES
    # Two files of one picture would leak, too.
    assert not {(digits / path).read_bytes() for path in train} & {(digits / path).read_bytes() for path in held_out}


def test_held_out_sums_are_in_no_training_text(digits: Path) -> None:
    def pairs(split: str) -> set[frozenset[str]]:
        return {frozenset(record["text"].split()[:3:2]) for record in _records(digits, split, "text")}

    assert not pairs("train") & pairs("held_out")
    assert len(_records(digits, "train", "text")) == 80 and len(_records(digits, "held_out", "text")) == 20


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_texts_say_what_the_images_show(digits: Path, split: str) -> None:
    labels = {f"images/{number:04d}.png": int(label) for number, label in enumerate(load_digits().target)}
    for record in _records(digits, split, "caption"):
        assert record["text"] == f"<image> a handwritten {WORDS[labels[record['images'][0]]]}."
    for record in _records(digits, split, "interleaved"):
        assert record["text"] == f"<image> plus <image> is {WORDS[sum(labels[image] for image in record['images'])]}."
    for record in _records(digits, split, "text"):
        first, _, second, _, result = record["text"].rstrip(".").split()
        assert WORDS.index(first) + WORDS.index(second) == WORDS.index(result)


def test_images_are_the_digits(digits: Path) -> None:
    source = load_digits().images
    for number in (0, 700, 1796):
        with Image.open(digits / "images" / f"{number:04d}.png") as image:
            assert image.size == (32, 32) and image.mode == "L"
            small = np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=np.float64)
        assert np.corrcoef(small.flatten(), source[number].flatten())[0, 1] > 0.97


def test_the_same_in_every_run(digits: Path, tmp_path: Path) -> None:
    write(tmp_path, PAIRS, HELD_OUT_PAIRS)
    for split in ("train", "held_out"):
        for kind in KINDS:
            name = f"{split}/{kind}.jsonl"
            assert (tmp_path / name).read_bytes() == (digits / name).read_bytes()
