"""A sample is loaded with the pixels its rule and the run ask for, the same on every rank, thread and epoch."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megatron_nmm.data.cache import PixelCache
from megatron_nmm.data.corpus import Corpus
from megatron_nmm.data.decoders.pillow import PillowDecoder
from megatron_nmm.data.decoders.protocol import Least, Pixels
from megatron_nmm.data.load import PLAIN, Loader, Variation, held_out_variation, image_patches, run_rule
from megatron_nmm.data.rule import ImageRule, NativeRule, SquareRule
from megatron_nmm.data.tokenise import tokenise
from megatron_nmm.data.transforms import centre, draw_crop, normalise, patchify, resize, sample_generator
from megatron_nmm.errors import DataError
from tests.data.corpora import quiet, record, run_config, settings, write_jsonl
from tests.data.decoders.zoo import file, photo

SQUARE = SquareRule(image_size=32, patch=8)
NATIVE = NativeRule(patch=8, min_patches=16, max_patches=64, multi_scale=True, shuffle=2)
AUGMENT = Variation(augment=True, noise=0.0, seed=7)
NAMES = ["a.png", "b.jpg", "a.png"]
LARGE = 1 << 20


class Counting:
    """The reference decoder, remembering what it was asked for."""

    name = "counting"

    def __init__(self, scaled: bool = False) -> None:
        self._decoder = PillowDecoder(scaled)
        self.asked: list[Least | None] = []

    def describe(self) -> str:
        return self.name

    def decode(self, encoded: bytes, least: Least | None = None) -> Pixels:
        self.asked.append(least)
        return self._decoder.decode(encoded, least)


def opened(folder: Path, rule: ImageRule) -> Corpus:
    """A corpus of one interleaved sample (a, b, a) and a caption (b)."""
    (folder / "a.png").write_bytes(file(photo(40, 56), "PNG"))
    (folder / "b.jpg").write_bytes(file(photo(96, 64, seed=1), "JPEG"))
    records = [record(0, "interleaved", NAMES), record(1, "caption", ["b.jpg"])]
    tokenise([write_jsonl(folder / "c.jsonl", records)], folder / "c", settings(folder, "c", rule=rule), quiet)
    return Corpus(folder / "c")


def loader(rule: ImageRule, variation: Variation = PLAIN, decoder: Counting | None = None, kept: int = LARGE) -> Loader:
    return Loader(rule, decoder or Counting(), PixelCache(LARGE, kept), variation)


def same(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


def test_square_images_are_resized_whole(tmp_path: Path) -> None:
    corpus = opened(tmp_path, SQUARE)
    loaded = loader(SQUARE).load(corpus, 3, 0, epoch=0)
    assert (loaded.id, loaded.source, len(loaded.grids)) == ("interleaved-0", 3, 3)
    decoded = [PillowDecoder().decode((tmp_path / name).read_bytes()) for name in NAMES]
    assert same(loaded.patches, [normalise(patchify(resize(pixels, 32, 32), 8)) for pixels in decoded])


def test_native_images_have_all_their_views(tmp_path: Path) -> None:
    corpus = opened(tmp_path, NATIVE)
    counting = Counting()
    loaded = loader(NATIVE, decoder=counting).load(corpus, 0, 0, epoch=0)
    expected: list[np.ndarray] = []
    for name in NAMES:
        pixels = PillowDecoder().decode((tmp_path / name).read_bytes())
        for view in NATIVE.views(*pixels.shape[:2]):
            padded = np.zeros((view.grid.rows * 8, view.grid.columns * 8, 3), np.uint8)
            padded[: view.height, : view.width] = resize(pixels, view.height, view.width)
            expected.append(normalise(patchify(padded, 8, shuffle=2)))
    assert len(expected) > len(NAMES)
    assert same(loaded.patches, expected)
    assert [grid.patches for grid in loaded.grids] == [len(patches) for patches in expected]
    # Each image is decoded once for all of its views, and a repeated one comes from the cache.
    assert len(counting.asked) == 2
    placeholders = int((loaded.tokens == settings(tmp_path).tokenizer.image).sum())
    assert placeholders * 4 == sum(map(len, expected))


def test_grids_that_are_not_those_of_the_image_are_told_with_the_sample(tmp_path: Path) -> None:
    corpus = opened(tmp_path, SQUARE)
    other = loader(SquareRule(image_size=48, patch=8))  # as if the corpus had been changed on disk
    with pytest.raises(DataError, match=r"sample 'interleaved-0' of corpus .* 40 x 56 pixels .* tokenise it again"):
        other.load(corpus, 0, 0, epoch=0)


def test_random_choices_depend_on_seed_sample_and_epoch_alone(tmp_path: Path) -> None:
    corpus = opened(tmp_path, SQUARE)
    noisy = replace(AUGMENT, noise=0.1)
    first = loader(SQUARE, noisy)
    alone = first.load(corpus, 0, 1, epoch=2).patches
    first.load(corpus, 0, 0, epoch=0)
    again = loader(SQUARE, noisy, kept=0)
    again.load(corpus, 5, 0, epoch=9)
    assert same(again.load(corpus, 5, 1, epoch=2).patches, alone)
    with ThreadPoolExecutor(4) as threads:
        for patches in threads.map(lambda _: first.load(corpus, 0, 1, epoch=2).patches, range(16)):
            assert same(patches, alone)
    assert not same(first.load(corpus, 0, 1, epoch=3).patches, alone)
    assert not same(loader(SQUARE, replace(noisy, seed=8)).load(corpus, 0, 1, epoch=2).patches, alone)


def test_augmentation_is_the_crop_drawn_for_the_sample(tmp_path: Path) -> None:
    corpus = opened(tmp_path, SQUARE)
    generator = sample_generator(7, "interleaved-0", 1)
    expected = []
    for name in NAMES:
        pixels = PillowDecoder().decode((tmp_path / name).read_bytes())
        crop = draw_crop(*pixels.shape[:2], generator)
        expected.append(normalise(patchify(crop.apply(pixels, 32, 32), 8)))
    assert same(loader(SQUARE, AUGMENT).load(corpus, 0, 0, epoch=1).patches, expected)


def test_images_too_large_to_keep_are_decoded_as_small_as_their_crop_allows(tmp_path: Path) -> None:
    corpus = opened(tmp_path, SQUARE)
    full, small = Counting(), Counting(scaled=True)
    loader(SQUARE, AUGMENT, full).load(corpus, 0, 1, epoch=1)
    assert full.asked == [None]
    loader(SQUARE, AUGMENT, small, kept=0).load(corpus, 0, 1, epoch=1)
    crop = draw_crop(96, 64, sample_generator(7, "caption-1", 1))
    assert small.asked == [crop.least(32, 32)]
    scaled = loader(SQUARE, PLAIN, Counting(scaled=True)).load(corpus, 0, 1, epoch=0).patches
    exact = loader(SQUARE, PLAIN).load(corpus, 0, 1, epoch=0).patches
    assert 0 < np.abs(scaled[0] - exact[0]).max() < 0.5


def test_validation_sees_centre_squares_if_training_sees_parts(tmp_path: Path) -> None:
    corpus = opened(tmp_path, SQUARE)
    run = run_config(tmp_path, [])
    assert held_out_variation(run) == PLAIN
    variation = held_out_variation(replace(run, data=replace(run.data, augment=True)))
    assert variation == replace(PLAIN, centred=True)
    pixels = PillowDecoder().decode((tmp_path / "b.jpg").read_bytes())
    expected = normalise(patchify(centre(96, 64).apply(pixels, 32, 32), 8))
    assert same(loader(SQUARE, variation).load(corpus, 0, 1, epoch=0).patches, [expected])
    seen, views = image_patches((tmp_path / "b.jpg").read_bytes(), SQUARE, PillowDecoder(), centred=True)
    assert same(seen, [expected]) and views == SQUARE.views(96, 64)


@pytest.mark.parametrize("rule", [SQUARE, NATIVE])
def test_a_prompt_sees_what_a_corpus_shows(tmp_path: Path, rule: ImageRule) -> None:
    loaded = loader(rule).load(opened(tmp_path, rule), 0, 1, epoch=0)
    seen, views = image_patches((tmp_path / "b.jpg").read_bytes(), rule, PillowDecoder())
    assert same(seen, loaded.patches) and tuple(view.grid for view in views) == loaded.grids


def test_a_bad_image_names_its_sample(tmp_path: Path) -> None:
    opened(tmp_path, SQUARE)
    images = tmp_path / "c" / "shards" / "00000" / "images.bin"
    content = bytearray(images.read_bytes())
    content[:64] = b"<html>" + bytes(58)
    images.write_bytes(content)
    with pytest.raises(DataError, match=r"sample 'interleaved-0' of corpus .*: the bytes are no image of"):
        loader(SQUARE).load(Corpus(tmp_path / "c"), 0, 0, epoch=0)


def test_a_run_chooses_its_rule(tmp_path: Path) -> None:
    run = run_config(tmp_path, [])
    assert run_rule(run) == SquareRule(image_size=8, patch=4)
    native = replace(run.data, image_rule="native", min_patches=16, max_patches=64, multi_scale=True)
    assert run_rule(replace(run, data=native)) == NativeRule(4, 16, 64, True, shuffle=1)
    late = replace(run.model, vision=replace(run.model.vision, depth=2))
    assert run_rule(replace(run, data=native, model=late)) == NativeRule(4, 16, 64, True, shuffle=1)
    merging = replace(run.model, vision=replace(late.vision, connector="pixel_shuffle"))
    assert run_rule(replace(run, data=native, model=merging)) == NativeRule(4, 16, 64, True, shuffle=2)
    assert run_rule(replace(run, model=merging)) == SquareRule(image_size=8, patch=4, shuffle=2)
