"""How often sources are read, which runs out, and the ways out of it."""

import pytest

from megatron_nmm.errors import ConfigError
from megatron_nmm.scaling.plan.repeats import EPOCHS, Source, read, readings

SHARES = {"caption": 45.0, "interleaved": 45.0, "text": 10.0}


def test_epochs_and_what_runs_out_are_told() -> None:
    found = readings([Source("caption", 10e9), Source("interleaved", 90e9, 1.0), Source("text", 1e12)], SHARES, 100e9)
    caption, interleaved, text = found.rows
    assert caption.epochs == pytest.approx(4.5) and caption.missing == pytest.approx(5e9)
    assert caption.lasts == pytest.approx(40 / 45) and interleaved.missing == 0 and text.epochs == pytest.approx(0.01)
    assert found.longest == pytest.approx(40e9 / 0.45)
    assert found.remedy.startswith("caption runs out after 89 % of the run. Bring 1.25e+09 new tokens of caption;")
    assert "lower shares (caption 40 %)" in found.remedy and "--tokens 8.89e+10" in found.remedy


def test_the_longest_run_asks_for_no_remedy() -> None:
    sources = [Source("caption", 10e9), Source("interleaved", 90e9), Source("text", 1e12)]
    longest = readings(sources, SHARES, 1.0).longest
    assert readings(sources, SHARES, longest).remedy == ""
    assert readings(sources, SHARES, 1.01 * longest).remedy


def test_sources_are_read_from_text() -> None:
    assert read("caption=3e11") == Source("caption", 3e11, EPOCHS)
    assert read("text=1e11:2") == Source("text", 1e11, 2.0)


@pytest.mark.parametrize("text", ["caption", "=3e9", "caption=", "caption=x", "caption=-1", "caption=1e9:0", "a=nan"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not name=tokens\[:epochs\] with numbers above 0"):
        read(text)


def test_a_source_stands_once() -> None:
    with pytest.raises(ConfigError, match="source a is given 2 times; add up its tokens"):
        readings([Source("a", 1.0), Source("a", 2.0)], {"a": 1.0}, 1.0)
