"""The decoder asked for is taken, auto takes the fastest one installed, and a missing one says how to get it."""

from importlib.util import find_spec
from typing import Any

import pytest

from megatron_nmm.data.decoders import select
from megatron_nmm.data.decoders.select import choose, installed
from megatron_nmm.errors import ConfigError


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes modules look as if they were not installed."""

    def hide(*names: str) -> None:
        def find(name: str) -> Any:
            if name.split(".")[0] in names and "." in name:
                raise ModuleNotFoundError(f"No module named {name.split('.')[0]!r}")
            return None if name in names else find_spec(name)

        monkeypatch.setattr(select, "find_spec", find)

    return hide


def test_auto_takes_the_fastest_there_is(without: Any) -> None:
    assert choose("auto", "exact").name == "simplejpeg"
    without("cv2", "nvidia")
    assert installed() == ["pillow"]
    assert choose("auto", "exact").name == "pillow"
    assert choose("pillow", "fast").name == "pillow"


def test_auto_passes_over_what_is_missing(without: Any) -> None:
    without("simplejpeg")
    assert installed() == ["dali", "pillow"]


def test_a_missing_one_names_its_extra(without: Any) -> None:
    without("cv2", "nvidia")
    with pytest.raises(ConfigError, match=r"data\.decoder simplejpeg needs cv2, .* run 'pip install -e \.\[images\]'"):
        choose("simplejpeg", "exact")
    with pytest.raises(
        ConfigError,
        match=r"data\.decoder dali needs nvidia\.dali, nvidia\.nvimgcodec, .*\.\[dali\]' or use data\.decoder=auto",
    ):
        choose("dali", "exact")


def test_decoders_describe_what_is_behind_them() -> None:
    assert choose("pillow", "exact").describe().startswith("Pillow ")
    described = choose("simplejpeg", "exact").describe()
    assert described.startswith("simplejpeg ") and "(JPEG), OpenCV " in described and "(WebP), Pillow " in described
