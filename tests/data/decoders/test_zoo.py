"""Every installed decoder reads the whole zoo as the reference does, pixel for pixel, error for error."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from megatron_nmm.data.decoders.header import read_size
from megatron_nmm.data.decoders.pillow import PillowDecoder, verify
from megatron_nmm.data.decoders.protocol import Decoder, Least, Size
from megatron_nmm.data.decoders.select import choose, installed
from megatron_nmm.errors import DataError
from tests.data.decoders.zoo import broken, file, oriented, photo, sound

OTHERS = [name for name in installed() if name != "pillow"]
LEAST: list[Least] = [(700, 700), (256, 384), (200, 100), (100, 200), (100, 100), (1, 1)]


@cache
def decoder(name: str, decode: str) -> Decoder:
    """One instance of each for all tests: some take long to start."""
    return choose(name, decode)  # type: ignore[arg-type]


def outcome(name: str, encoded: bytes) -> np.ndarray | str:
    """The pixels, or the words of the refusal."""
    try:
        return decoder(name, "exact").decode(encoded)
    except DataError as error:
        return str(error)


def test_every_decoder_of_the_extras_is_compared() -> None:
    assert set(OTHERS) == {"simplejpeg", "dali"}, "install the extras: pip install -e .[images,dali]"


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", sound())
def test_sound_files_give_identical_pixels(kind: str, name: str) -> None:
    encoded = sound()[kind]
    expected = PillowDecoder().decode(encoded)
    pixels = outcome(name, encoded)
    assert isinstance(pixels, np.ndarray), pixels
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
    assert Size(*pixels.shape[:2]) == read_size(encoded)
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no NVIDIA GPU")
@pytest.mark.parametrize("kind", ["jpeg", "jpeg 4:4:4", "jpeg grey", "jpeg odd sides", "png alpha"])
def test_a_gpu_gives_nearly_the_same_pixels(kind: str) -> None:
    encoded = sound()[kind]
    pixels = choose("dali", "exact", gpu=0).decode(encoded)
    expected = PillowDecoder().decode(encoded)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 1


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", broken())
def test_broken_files_are_refused_in_the_same_words(kind: str, name: str) -> None:
    encoded = broken()[kind]
    with pytest.raises(DataError) as refusal:
        verify(encoded)
    assert outcome(name, encoded) == str(refusal.value)


@pytest.mark.parametrize("name", OTHERS)
def test_torn_files_leave_the_console_alone(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert isinstance(outcome(name, broken()["jpeg cut at 50 %"]), str)
    assert capfd.readouterr() == ("", "")


def test_bytes_damaged_at_random_are_judged_alike() -> None:
    random = np.random.RandomState(0)
    refused = 0
    for kind in ("jpeg", "jpeg progressive", "png", "webp"):
        for _ in range(25):
            encoded = bytearray(sound()[kind])
            for _ in range(random.randint(1, 6)):
                encoded[random.randint(12, len(encoded))] = random.randint(256)
            expected = outcome("pillow", bytes(encoded))
            found = outcome("simplejpeg", bytes(encoded))
            refused += isinstance(expected, str)
            if isinstance(expected, str):
                assert found == expected
            else:
                np.testing.assert_array_equal(found, expected)
    assert 10 < refused < 90


@pytest.mark.parametrize("name", installed())
@pytest.mark.parametrize("kind", ["jpeg", "jpeg with a tail", "jpeg CMYK", "png alpha", "webp alpha"])
def test_the_header_is_read_once(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, encoded = decoder(name, "exact"), sound()[kind]
    opening = Mock(wraps=Image.open)
    monkeypatch.setattr(Image, "open", opening)
    chosen.decode(encoded)
    opening.assert_called_once()


@pytest.mark.parametrize("least", LEAST)
@pytest.mark.parametrize("orientation", [1, 6])
def test_reduced_scales_are_the_same_in_both_that_offer_them(least: Least, orientation: int) -> None:
    large = file(photo(384, 512), "JPEG", quality=90, exif=oriented(orientation))
    expected = decoder("pillow", "fast").decode(large, least)
    size = read_size(large)
    assert expected.shape[0] >= min(least[0], size.height) and expected.shape[1] >= min(least[1], size.width)
    assert expected.shape[0] in {size.height // by for by in (1, 2, 4, 8)}
    np.testing.assert_array_equal(decoder("simplejpeg", "fast").decode(large, least), expected)


@pytest.mark.parametrize("name", installed())
def test_without_fast_every_image_comes_at_full_size(name: str) -> None:
    large = file(photo(384, 512), "JPEG")
    assert decoder(name, "exact").decode(large, (1, 1)).shape == (384, 512, 3)
    assert decoder(name, "fast").decode(large).shape == (384, 512, 3)


@pytest.mark.parametrize("name", installed())
def test_decoding_is_safe_from_several_threads(name: str) -> None:
    files = [file(photo(96, 128, seed), "JPEG") for seed in range(8)] * 3
    with ThreadPoolExecutor(4) as threads:
        decoded = list(threads.map(decoder(name, "exact").decode, files))
    for encoded, pixels in zip(files, decoded, strict=True):
        np.testing.assert_array_equal(pixels, PillowDecoder().decode(encoded))
