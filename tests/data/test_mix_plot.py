"""The picture of a mixture is drawn whatever the number of sources, and shows each of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from megatron_nmm.data.forecast import course, forecast
from megatron_nmm.data.mix_plot import COLOURS, _apart, mix_plot
from megatron_nmm.data.mixture import Mixture, Portion


def _colours(path: Path) -> set[str]:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(np.int64)
    return {f"#{colour:06x}" for colour in np.unique(pixels @ [65536, 256, 1]).tolist()}


@pytest.mark.parametrize("count", [1, 9])
def test_every_source_has_its_colour(tmp_path: Path, count: int) -> None:
    portions = [Portion(f"s{n}", 50 + n, 1 + n, max_epochs=2 if n % 2 else None) for n in range(count)]
    mixture = Mixture(portions, seed=0)
    path = tmp_path / "mixture.png"
    mix_plot(forecast(mixture, 900), course(mixture, 900), "tokens", path, "title")
    assert set(COLOURS[:count]) <= _colours(path)


def test_labels_keep_their_distance() -> None:
    assert _apart([5, 1, 1, 1.5], 1) == [5, 1, 2, 3]
    assert _apart([1, 2], 1) == [1, 2]
