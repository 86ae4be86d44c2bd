"""The routing plot is a readable PNG whatever a run measured: experts from text to images, alarms marked."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from megatron_nmm.train.collapse import alarms
from megatron_nmm.train.metrics import Record
from megatron_nmm.train.record import alarm_record, routing_record
from megatron_nmm.train.routing import RoutingReading
from megatron_nmm.train.routing_plot import DEPTHS, EMPTY_COLOUR, MEAN_COLOUR, cells, routing_plot
from tests.train.readings import HEALTHY


def _records(choices: list[list[list[int]]], steps: int) -> list[Record]:
    """``choices`` [L, 2, E] measured ``steps`` times."""
    records: list[Record] = []
    before = None
    for step in range(1, steps + 1):
        losses = torch.tensor([[33.0, 60.0, 30.0]] * len(choices))
        before = RoutingReading.of(range(1, len(choices) + 1), torch.tensor(choices), losses, before)
        records.append(routing_record(20 * step, before, 1.0))
        records += [alarm_record(20 * step, alarm, 1.0) for alarm in alarms(replace(HEALTHY, routing=before))]
    return records


def _pixels(records: list[Record], path: Path) -> Counter[tuple[int, int, int]]:
    routing_plot(records, path, "a run")
    with Image.open(path) as image:
        assert image.size == (1650, 990)
        counted: Any = image.convert("RGB").getcolors(1 << 21)
    return Counter({colour: count for count, colour in counted})


def _rgb(name: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(name.removeprefix("#")))


MIXED = [[[9, 1, 5, 5], [1, 9, 5, 5]], [[5, 5, 5, 5], [5, 5, 5, 5]], [[9, 9, 1, 1], [1, 1, 9, 9]]]
ONE_DEAD = [[[9, 1, 5, 0], [1, 9, 5, 0]]]
COLLAPSED = [[[9, 0, 0, 0], [9, 0, 0, 0]]]
TEXT_ONLY = [[[9, 3, 2, 4], [0, 0, 0, 0]]]
SINGLE_EXPERT = [[[9], [3]]]
NOTHING = [[[0, 0], [0, 0]]]


def test_cells_go_from_text_to_images_and_the_dead_come_last() -> None:
    (record,) = _records([[[0, 1, 0, 3], [4, 1, 0, 1]]], 1)
    shares, loads, orders = cells(record)
    assert orders == [[3, 1, 0, 2]]
    assert shares[0] == pytest.approx([0.25, 0.5, 1.0, math.nan], nan_ok=True)
    assert loads == [[1.6, 0.8, 1.6, 0.0]]


def test_curves_and_maps_are_drawn(tmp_path: Path) -> None:
    drawn = _pixels(_records(MIXED, 5), tmp_path / "routing.png")
    assert {_rgb(MEAN_COLOUR), *(_rgb(colour) for _, colour in DEPTHS.values())} <= drawn.keys()
    with_dead = _pixels(_records(ONE_DEAD, 1), tmp_path / "dead.png")
    grey: Any = _rgb(EMPTY_COLOUR)
    assert with_dead[grey] > drawn[grey] + 1000, "an expert without tokens has no share"


def test_alarms_are_marked(tmp_path: Path) -> None:
    healthy, alarming = (_red(_pixels(_records(one, 4), tmp_path / "r.png")) for one in (MIXED, COLLAPSED))
    assert healthy < alarming / 1.5


def _red(pixels: Counter[tuple[int, int, int]]) -> int:
    """Pixels of the alarms' colour, however faint."""
    return sum(count for (red, green, blue), count in pixels.items() if abs(green - blue) < 3 and red > green + 40)


@pytest.mark.parametrize("choices", [ONE_DEAD, COLLAPSED, TEXT_ONLY, SINGLE_EXPERT, NOTHING], ids=str)
def test_little_to_show_is_no_error(tmp_path: Path, choices: list[list[list[int]]]) -> None:
    assert len(_pixels(_records(choices, 1), tmp_path / "routing.png")) > 10
