"""The image benchmark runs and says who is how fast and how far from plain Pillow."""

import re

import pytest

from megatron_nmm.data.decoders.select import installed
from tools import bench_images


def test_every_decoder_is_raced_and_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench_images.py", "--threads", "1", "--rounds", "1", "--images", "1"])
    assert bench_images.main() == 0
    rows = re.findall(r"(\S+) +│ (exact|fast) +│ +\d+ │ +\d+\.\d\d │ +(\d+)/255", capsys.readouterr().out)
    assert len(rows) == len(bench_images.TARGETS) * len(installed()) * 2
    assert all(int(levels) <= 5 for _, mode, levels in rows if mode == "exact")
    assert max(int(levels) for _, mode, levels in rows if mode == "fast") > 5


def test_missing_photographs_name_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench_images.py"])
    monkeypatch.setattr(bench_images, "find_spec", lambda name: None)
    assert bench_images.main() == 2
    assert "pip install -e .[examples]" in "".join(capsys.readouterr())
