"""8-bit floats against hand-computed tables: rounding, subnormals, what is cut off."""

import math

import pytest
import torch

from megatron_nmm.config.recipes import Format
from megatron_nmm.precision.formats import FORMATS, rounded
from tests.precision import plain

TABLES: dict[Format, list[tuple[float, float]]] = {
    "e4m3": [
        (1.0, 1.0),
        (1.0625, 1.0),  # half way between 1 and 1.125: to even
        (1.1875, 1.25),  # half way between 1.125 and 1.25: to even
        (1.07, 1.125),
        (-3.3, -3.25),
        (2**-6, 2**-6),  # the smallest normal number
        (2**-9, 2**-9),  # the smallest subnormal number
        (2**-10, 0.0),  # half of it: to even
        (1.1 * 2**-10, 2**-9),
        (2.6 * 2**-9, 3 * 2**-9),
        (448.0, 448.0),
        (463.0, 448.0),
        (1e9, 448.0),
        (-math.inf, -448.0),
    ],
    "e5m2": [
        (1.125, 1.0),
        (1.375, 1.5),
        (-5.9, -6.0),
        (2**-14, 2**-14),
        (2**-16, 2**-16),
        (2**-17, 0.0),
        (1.1 * 2**-17, 2**-16),
        (57344.0, 57344.0),
        (61440.0, 57344.0),
        (math.inf, 57344.0),
    ],
}


@pytest.mark.parametrize("name", TABLES)
def test_values_of_the_table(name: Format) -> None:
    given, expected = zip(*TABLES[name], strict=True)
    assert rounded(torch.tensor(given), FORMATS[name]).tolist() == list(expected)


def test_a_nan_stays_one() -> None:
    assert all(rounded(torch.tensor([math.nan]), float8).isnan().all() for float8 in FORMATS.values())


@pytest.mark.parametrize("name", TABLES)
def test_every_scale_as_worked_out_one_by_one(name: Format) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(2000, generator=generator) * 2.0 ** torch.randint(-20, 18, (2000,), generator=generator)
    expected = [getattr(plain, name)(value) for value in values.tolist()]
    assert rounded(values, FORMATS[name]).tolist() == expected
