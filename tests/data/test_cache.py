"""The pixel cache stays within its bytes and drops what was used longest ago."""

import numpy as np

from megatron_nmm.data.cache import PixelCache
from megatron_nmm.data.decoders.protocol import Pixels


def test_least_recently_used_is_dropped_within_the_limit() -> None:
    cache = PixelCache(limit=100, largest=60)
    made: list[str] = []

    def get(key: str, size: int) -> int:
        def make() -> Pixels:
            made.append(key)
            return np.zeros((size, 1, 1), np.uint8)

        return cache.get(key, make).nbytes

    for key in "abab":
        get(key, 50)
    assert made == ["a", "b"]
    get("a", 50)
    get("c", 50)
    get("a", 50)
    assert made == ["a", "b", "c"]
    get("b", 50)
    assert made == ["a", "b", "c", "b"]
    get("big", 61)
    get("big", 61)
    assert made[-2:] == ["big", "big"]
    assert cache.keeps(60) and not cache.keeps(61)
