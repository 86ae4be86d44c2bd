"""The plot of a run is a readable PNG, whatever the run has to show."""

from pathlib import Path

import pytest
from PIL import Image

from megatron_nmm.train.metrics import Record
from megatron_nmm.train.plots import loss_plot, thin


def _step(step: int, loss: float | None) -> Record:
    kinds = {kind: {"loss": loss, "tokens": 1} for kind in ("caption", "interleaved")}
    kinds["text"] = {"loss": None, "tokens": 0}
    return {"event": "step", "step": step, "loss": loss, "kinds": kinds, "learning_rate": 1e-3}


def _colours(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as image:
        assert image.size == (1080, 720)
        counted = image.convert("RGB").getcolors(1 << 20)
    assert counted is not None
    return {colour for _, colour in counted if isinstance(colour, tuple)}


def test_curves_and_validation_are_drawn(tmp_path: Path) -> None:
    records = [_step(step, 5.0 / step) for step in range(1, 300)]
    loss_plot([*records, {"event": "validation", "step": 299, "loss": 0.5}], tmp_path / "loss.png", "a run")
    colours = _colours(tmp_path / "loss.png")
    assert {(0x22, 0x88, 0x33), (0xEE, 0x66, 0x77), (0x22, 0x22, 0x22), (0xAA, 0x33, 0x77)} <= colours
    assert (0x44, 0x77, 0xAA) not in colours, "a kind without tokens has no curve"


@pytest.mark.parametrize("records", [[], [_step(1, None)], [_step(1, 2.0)]])
def test_little_to_show_is_no_error(tmp_path: Path, records: list[Record]) -> None:
    loss_plot(records, tmp_path / "loss.png", "a short run")
    assert _colours(tmp_path / "loss.png")


def test_thin_averages_neighbours() -> None:
    assert thin([(1, 1.0), (2, 3.0), (3, 5.0)], 2) == [(1.5, 2.0), (3.0, 5.0)]
    assert len(thin([(step, 0.0) for step in range(1_001)], 100)) <= 100
