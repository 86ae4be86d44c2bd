"""The telemetry plot is a readable PNG whatever a run measured, and shows both sides and every alarm."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from megatron_nmm.train.collapse import alarms
from megatron_nmm.train.metrics import Record
from megatron_nmm.train.record import alarm_record, telemetry_record
from megatron_nmm.train.telemetry import PARTS, TelemetryReading
from megatron_nmm.train.telemetry_plot import SHADES, TEXT_COLOUR, VISUAL_COLOUR, telemetry_plot
from tests.train.readings import HEALTHY, with_part, without

TEXT_ONLY = replace(without(HEALTHY, "vision", "connector", "visual_ffn"), visual=(math.nan,) * 3, visual_rows=0)
ONE_LAYER = replace(HEALTHY, text=(1.0,), visual=(2.0,))
BROKEN = replace(with_part(HEALTHY, "vision", gradient=math.nan, update=0.0), visual=(1.0, 0.0, math.nan))


def _records(*readings: TelemetryReading) -> list[Record]:
    """A step, its telemetry and its alarms for each of ``readings``."""
    records: list[Record] = []
    for number, reading in enumerate(readings, 1):
        contexts = {"text": {"loss": 3.0 / number}, "image": {"loss": 4.0 / number if reading.visual_rows else None}}
        records.append({"event": "step", "step": 20 * number, "contexts": contexts})
        records.append(telemetry_record(20 * number, reading, 1.0))
        records += [alarm_record(20 * number, alarm, 1.0) for alarm in alarms(reading)]
    return records


def _pixels(records: list[Record], path: Path) -> Counter[tuple[int, int, int]]:
    telemetry_plot(records, path, "a run")
    with Image.open(path) as image:
        assert image.size == (1650, 935)
        counted: Any = image.convert("RGB").getcolors(1 << 21)
    return Counter({colour: count for count, colour in counted})


def _colours(*names: str) -> set[tuple[int, ...]]:
    return {tuple(bytes.fromhex(name.removeprefix("#"))) for name in names}


def test_both_sides_are_drawn(tmp_path: Path) -> None:
    drawn = _pixels(_records(*[HEALTHY] * 5), tmp_path / "telemetry.png").keys()
    assert _colours(TEXT_COLOUR, VISUAL_COLOUR, *SHADES["text"][:3], *SHADES["visual"][:3]) <= drawn
    assert not _colours(*SHADES["visual"][3:]) & drawn, "parts that do not train have no curve"


def test_a_model_with_every_part_has_a_colour_for_each(tmp_path: Path) -> None:
    everything = replace(HEALTHY, parts=dict.fromkeys(PARTS, HEALTHY.parts["ffn"]))
    assert len(_pixels(_records(everything, everything), tmp_path / "telemetry.png")) > 10


def test_alarms_are_marked(tmp_path: Path) -> None:
    dead = with_part(HEALTHY, "vision", "connector", "visual_ffn", gradient=0.0, update=0.0)
    healthy, alarming = (_red(_pixels(_records(*[reading] * 3), tmp_path / "t.png")) for reading in (HEALTHY, dead))
    assert 0 < healthy < alarming / 2, "the limits of the feature ratio are always drawn, marks only for alarms"


def _red(pixels: Counter[tuple[int, int, int]]) -> int:
    """Pixels of the alarms' colour, however faint: no other colour of the plot has as much green as blue."""
    return sum(count for (red, green, blue), count in pixels.items() if green == blue and red > green + 40)


@pytest.mark.parametrize("readings", [[TEXT_ONLY], [ONE_LAYER], [BROKEN], [HEALTHY, BROKEN, TEXT_ONLY]])
def test_little_to_show_is_no_error(tmp_path: Path, readings: list[TelemetryReading]) -> None:
    assert len(_pixels(_records(*readings), tmp_path / "telemetry.png")) > 10
