"""The header alone gives the size and keeps what is too large from being decoded."""

import tracemalloc

import pytest

from megatron_nmm.data.decoders import header
from megatron_nmm.data.decoders.header import read_size, reduction
from megatron_nmm.data.decoders.protocol import Size
from megatron_nmm.data.decoders.select import choose, installed
from megatron_nmm.errors import DataError
from tests.data.decoders.zoo import claims, file, jpeg_claims, oriented, photo


@pytest.mark.parametrize("bomb", [claims(60_000), claims(9_000), jpeg_claims(65_500), jpeg_claims(9_000)])
def test_bombs_are_refused_before_their_pixels_take_memory(bomb: bytes) -> None:
    assert len(bomb) < 2000
    decoders = [choose(name, "exact") for name in installed() if name != "dali"]
    tracemalloc.start()
    for read in (read_size, *(decoder.decode for decoder in decoders)):
        with pytest.raises(DataError, match=r"(more|larger) than the limit of 67108864"):
            read(bomb)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_too_many_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = file(photo(8, 8), "PNG")
    monkeypatch.setattr(header, "MAX_BYTES", 10)
    for read in (read_size, *(choose(name, "exact").decode for name in installed() if name != "dali")):
        with pytest.raises(DataError, match=f"the image has {len(encoded)} bytes, more than the limit of 10; shrink"):
            read(encoded)


def test_sizes_are_those_of_the_upright_image() -> None:
    assert read_size(file(photo(16, 32), "JPEG")) == Size(16, 32)
    assert read_size(file(photo(16, 32), "JPEG", exif=oriented(6))) == Size(32, 16)
    assert read_size(file(photo(16, 32), "PNG", exif=oriented(5))) == Size(32, 16)
    assert read_size(file(photo(16, 32), "WEBP", exif=oriented(3))) == Size(16, 32)


@pytest.mark.parametrize(
    ("size", "least", "by"),
    [
        ((768, 1024), None, 1),
        ((768, 1024), (448, 448), 1),
        ((768, 1024), (384, 512), 2),
        ((768, 1024), (385, 512), 1),
        ((768, 1024), (192, 200), 4),
        ((768, 1024), (10, 10), 8),
        ((5, 1024), (1, 1), 4),
        ((5, 5), (9, 9), 1),
    ],
)
def test_a_reduction_keeps_both_sides_large_enough(
    size: tuple[int, int], least: tuple[int, int] | None, by: int
) -> None:
    assert reduction(*size, least) == by
