"""TensorBoard gets the values of metrics.jsonl under stable tags, and steps taken again replace the old ones."""

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megatron_nmm.train.collapse import Alarm
from megatron_nmm.train.metrics import Record
from megatron_nmm.train.record import alarm_record, routing_record, telemetry_record
from megatron_nmm.train.routing import RoutingReading
from megatron_nmm.train.tensorboard import Board, scalars
from tests.train.readings import HEALTHY, without


def _record(step: int, loss: float) -> Record:
    part = {"caption": {"loss": loss, "tokens": 1}, "text": {"loss": None, "tokens": 0}}
    losses = {"loss": loss, "contexts": {"image": part["caption"]}, "kinds": part, "sources": {}}
    return {"event": "step", "step": step, **losses, "learning_rate": 1e-3}


def test_tags() -> None:
    assert scalars(_record(1, 2.0)) == {
        "train/loss": 2.0,
        "train/context/image": 2.0,
        "train/kind/caption": 2.0,
        "optimizer/learning_rate": 1e-3,
    }
    intake = {"data_wait_share": 0.01, "epochs": {"web": 0.5}, "quarantined": 2}
    assert (
        scalars(_record(1, 2.0) | intake).items()
        >= {
            "speed/data_wait_share": 0.01,
            "data/epochs/web": 0.5,
            "data/quarantined_samples": 2,
        }.items()
    )


def test_tags_of_telemetry_and_alarms() -> None:
    tags = scalars(telemetry_record(4, without(HEALTHY, "norms"), 1.0))
    assert tags["telemetry/gradient/vision"] == 0.5 and tags["telemetry/weight/ffn"] == 10.0
    assert tags["telemetry/update_share/vision"] == pytest.approx(1e-3)
    assert tags["telemetry/features/ratio/layer_003"] == pytest.approx(2.5 / 3.0)
    assert tags["telemetry/visual_share_of_gradient"] == pytest.approx((3 / 5) ** 0.5)
    assert "telemetry/gradient/norms" not in tags
    alarm = Alarm("no_update", "ffn", 0.0, 1e-3, "ffn stands still")
    assert scalars(alarm_record(4, alarm, 1.0)) == {"telemetry/alarm/no_update": 0.0}


def test_tags_of_routing() -> None:
    choices = torch.tensor([[[4, 0, 0], [0, 4, 0]], [[2, 2, 2], [2, 2, 2]], [[0, 0, 0], [0, 0, 0]]])
    losses = torch.tensor([[8.0, 2.0, 8.0], [12.0, 6.0, 12.0], [0.0, 0.0, 0.0]])
    tags = scalars(routing_record(4, RoutingReading.of((1, 3, 4), choices, losses), 1.0))
    assert tags["routing/dead"] == 4
    assert (tags["routing/specialization/layer_001"], tags["routing/specialization/layer_003"]) == (1.0, 0.0)
    assert "routing/specialization/layer_004" not in tags
    assert tags["routing/specialization"] == 0.5
    assert (tags["routing/balance"], tags["routing/z"]) == (1.0, 0.375)


def test_a_resumed_run_shows_each_step_once(tmp_path: Path) -> None:
    with Board(tmp_path, 0) as board:
        for step in (1, 2, 3):
            board.write(_record(step, 1.0))
    with Board(tmp_path, 1) as board:
        for step in (2, 3):
            board.write(_record(step, 2.0))
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [(event.step, event.value) for event in events] == [(1, 1.0), (2, 2.0), (3, 2.0)]
