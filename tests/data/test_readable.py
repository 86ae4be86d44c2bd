"""A sample reads as its record did, with a mark where each image stands."""

from pathlib import Path

import numpy as np
import pytest

from megatron_nmm.data.corpus import Corpus, Sample
from megatron_nmm.data.decoders.pillow import PillowDecoder
from megatron_nmm.data.readable import pictures, readable, shorten
from megatron_nmm.data.rule import Grid, NativeRule
from megatron_nmm.data.tokenise import tokenise
from megatron_nmm.data.tokens import Tokenizer
from tests.data.corpora import corpus, mixed_records, png, quiet, settings, write_images, write_jsonl
from tests.data.damage import own_images, rot


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 12 samples."""
    path = tmp_path_factory.mktemp("readable")
    corpus(path, "mixed", mixed_records(12))
    return path


def test_text_and_marks_stand_as_in_the_record(folder: Path) -> None:
    opened, tokenizer = Corpus(folder / "mixed"), Tokenizer(folder / "tokenizer-0.model")
    for number, raw in enumerate(mixed_records(12)):
        assert readable(opened.sample(number), tokenizer, 1) == raw["text"].replace("<image>", "<image 2x2>")


def test_each_view_has_its_mark_whatever_stands_between_its_patches(folder: Path) -> None:
    tokenizer = Tokenizer(folder / "tokenizer-0.model")
    special, word = tokenizer.special, tokenizer.encode("red")
    row, line = [special["image"]] * 2, special["end_of_line"]
    small, large = [special["image"], line], [*row, line, *row, line]
    image = [special["begin_of_image"], *small, special["end_of_scale"], *large, special["end_of_image"]]
    ids = np.array([special["bos"], *word, *image, *image, *word, special["eos"]], dtype=np.int32)
    grids = (Grid(1, 1), Grid(2, 2)) * 2
    sample = Sample(id="x", kind=2, tokens=ids, images=((0, 0),) * 4, sizes=(), grids=grids)
    assert readable(sample, tokenizer, 1) == "red <image 1x1> <image 2x2> <image 1x1> <image 2x2> red"


def test_patches_that_share_a_token_are_counted_by_token(tmp_path: Path) -> None:
    rule = NativeRule(patch=4, min_patches=4, max_patches=64, multi_scale=False, shuffle=2)
    write_images(tmp_path)
    records = write_jsonl(tmp_path / "a.jsonl", mixed_records(6))
    tokenise([records], tmp_path / "native", settings(tmp_path, rule=rule), quiet)
    opened, tokenizer = Corpus(tmp_path / "native"), Tokenizer(tmp_path / "tokenizer-0.model")
    for number, raw in enumerate(mixed_records(6)):
        text = readable(opened.sample(number), tokenizer, opened.rule.shuffle)
        assert text == raw["text"].replace("<image>", "<image 2x2>")


def test_every_image_is_a_picture_once_and_a_bad_one_has_no_pixels(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "own", own_images(tmp_path, 6))
    rot(folder, ["interleaved-5"])
    opened = Corpus(folder)
    first, second = pictures(opened, opened.sample(5), "title", "text", PillowDecoder())
    assert first.pixels is None and second.pixels is not None
    assert (first.title, second.title, second.text) == ("title (1 of 2)", "title (2 of 2)", "text")
    assert np.array_equal(second.pixels, PillowDecoder().decode(png(11)))
    (only,) = pictures(opened, opened.sample(4), "title", "text", PillowDecoder())
    assert only.title == "title"
    assert pictures(opened, opened.sample(3), "title", "text", PillowDecoder()) == []


@pytest.mark.parametrize(("text", "short"), [("a  b\nc", "a b c"), ("abcdefgh", "abcde…"), ("abcd fgh", "abcd…")])
def test_shorten(text: str, short: str) -> None:
    assert shorten(text, 6) == short
