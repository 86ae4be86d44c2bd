"""The benchmark's mixtures are what it says they are, and every case can be measured."""

import numpy as np
import pytest

from tools.bench_packing import CASES, MIXTURES, measure, sizes


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_are_as_described(name: str) -> None:
    mixture, count = MIXTURES[name], 2000
    tokens, patches = sizes(mixture, count, 4096)
    assert len(tokens) == len(patches) == count and (tokens > patches).all()
    assert (patches == 0).sum() == count * mixture.text
    assert mixture.native or (patches % 256 == 0).all()
    assert patches.max(initial=0) <= (4096 if mixture.native else 1024)
    again = sizes(mixture, count, 4096)
    assert np.array_equal(tokens, again[0]) and np.array_equal(patches, again[1])


@pytest.mark.parametrize(("name", "length", "patches"), [CASES[0], CASES[5], CASES[-1]])
def test_a_case_is_measured(name: str, length: int, patches: int | None) -> None:
    found = measure(name, length, patches, 500)
    assert 0 < found.bound <= found.proved <= found.packs <= found.samples <= 500
    assert found.seconds > 0 and found.peak_mib > 10
