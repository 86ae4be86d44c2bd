"""Losses by context, kind and source add up to the total; what has no value is None, and JSON accepts all of it."""

import json
import math
from dataclasses import replace

import pytest
import torch

from megatron_nmm.data.quarantine import Quarantine
from megatron_nmm.parallel.losses import LossSums
from megatron_nmm.train.collapse import Alarm
from megatron_nmm.train.evaluate import Validation
from megatron_nmm.train.meter import Reading
from megatron_nmm.train.optim import Update
from megatron_nmm.train.record import (
    alarm_record,
    intake,
    loss_record,
    require_sum,
    routing_record,
    step_record,
    telemetry_record,
    validation_record,
)
from megatron_nmm.train.routing import RoutingReading
from tests.train.readings import HEALTHY, with_part, without

READING = Reading(2.0, 100.0, 50.0, 1e9, 1 << 30, 0.5, 180, 100, 2_000_000_000, 30, 1)
INTAKE = intake(56, {"a": 0.5}, Quarantine(10, 0.1, read=90, replaced=2))


def _sums(loss: list[list[float]], tokens: list[list[float]]) -> LossSums:
    """From [kinds, sources]: text has no image before it, captions and interleaved pages do."""
    by_kind = torch.tensor([loss, tokens], dtype=torch.float64)
    text = torch.tensor([True, False, False])[:, None]
    return LossSums(*torch.stack([torch.where(text, by_kind, 0.0), torch.where(text, 0.0, by_kind)], dim=1))


def test_parts_and_total() -> None:
    record = loss_record(_sums([[2.0, 0.0], [4.0, 6.0], [0.0, 8.0]], [[1, 0], [2, 2], [0, 4]]), ("a", "b"))
    assert record["loss"] == pytest.approx(20 / 9)
    assert record["tokens"] == 9
    assert record["contexts"] == {"text": {"loss": 2.0, "tokens": 1}, "image": {"loss": 18 / 8, "tokens": 8}}
    assert record["kinds"]["caption"] == {"loss": 2.5, "tokens": 4}
    assert record["sources"] == {"a": {"loss": 2.0, "tokens": 3}, "b": {"loss": 14 / 6, "tokens": 6}}


def test_a_kind_without_tokens_has_no_loss() -> None:
    record = loss_record(_sums([[0.0], [3.0], [0.0]], [[0], [2], [0]]), ("a",))
    assert record["kinds"]["text"] == {"loss": None, "tokens": 0}
    assert record["loss"] == 1.5


def test_parts_that_do_not_add_up_are_refused() -> None:
    parts = {"a": {"loss": 1.0, "tokens": 5}, "b": {"loss": 2.0, "tokens": 5}}
    require_sum("kinds", parts, 1.5, 10)
    with pytest.raises(AssertionError, match=r"the kinds add up to loss 1\.5, not 1\.50001"):
        require_sum("kinds", parts, 1.50001, 10)
    with pytest.raises(AssertionError, match="10 supervised tokens, the total 11"):
        require_sum("kinds", parts, 1.5, 11)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_diverged_step_is_valid_json(bad: float) -> None:
    sums = _sums([[bad], [1.0], [0.0]], [[1], [1], [0]])
    record = step_record(7, sums, ("a",), Update(1e-3, bad, finite=False), READING, INTAKE, 3.0)
    again = json.loads(json.dumps(record, allow_nan=False))
    assert again["loss"] is None
    assert again["grad_norm"] is None
    assert again["kinds"]["text"] == again["contexts"]["text"] == {"loss": None, "tokens": 1}
    assert again["finite"] is False


def test_a_step_records_everything_a_reader_needs() -> None:
    record = step_record(
        7, _sums([[1.0], [0.0], [0.0]], [[2], [0], [0]]), ("a",), Update(1e-3, 0.5, True), READING, INTAKE, 3
    )
    wanted = {
        "event", "step", "loss", "tokens", "contexts", "kinds", "sources", "learning_rate", "grad_norm", "finite",
        "seconds", "tokens_per_second", "image_tokens_per_second", "flops_per_second", "memory_bytes", "data_wait_s",
        "data_wait_share", "consumed_packs", "epochs", "samples", "replaced_samples", "quarantined", "elapsed_s",
        "read_tokens", "read_image_tokens", "flops",
    }  # fmt: skip
    assert set(record) == wanted
    assert record["data_wait_share"] == 0.25
    assert (record["consumed_packs"], record["epochs"], record["samples"], record["replaced_samples"]) == (
        *(56, {"a": 0.5}, 90, 2),
    )


def test_telemetry_says_none_where_there_is_no_value() -> None:
    record = telemetry_record(7, HEALTHY, 3.0)
    assert list(record["parts"]) == list(HEALTHY.parts)
    part = {"gradient": 0.5, "weight": 10.0, "update": 0.01, "update_share": 0.001, "pace": 0.5, "values": 1000}
    assert record["parts"]["ffn"] == pytest.approx(part)
    assert record["gradient_share"] == pytest.approx(math.sqrt(0.5))
    assert record["visual"] == record["others"]
    assert record["others"] == pytest.approx(
        {**part, "values": 3000} | {name: part[name] * math.sqrt(3) for name in ("gradient", "weight", "update")}
    )
    assert record["features"]["ratio"] == [1.5, 1.0, 2.5 / 3.0]
    frozen = without(HEALTHY, "vision", "connector", "visual_ffn")
    text_only = replace(frozen, visual=(math.nan,) * 3, visual_rows=0)
    again = json.loads(json.dumps(telemetry_record(7, text_only, 3.0), allow_nan=False))
    assert again["visual"] is None and again["gradient_share"] is None
    assert again["features"] == {"text": [1.0, 2.0, 3.0], "visual": [None] * 3, "ratio": [None] * 3}
    diverged = telemetry_record(7, with_part(HEALTHY, "ffn", gradient=math.inf, weight=0.0), 3.0)
    assert diverged["parts"]["ffn"]["gradient"] is None and diverged["parts"]["ffn"]["update_share"] is None
    json.dumps(diverged, allow_nan=False)


def test_routing_has_a_figure_for_each_sparse_layer_and_none_where_there_is_no_value() -> None:
    choices = torch.tensor([[[4, 0, 0], [0, 4, 0]], [[0, 0, 0], [0, 0, 0]]])
    reading = RoutingReading.of((1, 3), choices, torch.tensor([[8.0, 2.0, 4.0], [0.0, 0.0, 0.0]]))
    record = json.loads(json.dumps(routing_record(7, reading, 3.0), allow_nan=False))
    entropy = 1 / math.log2(3)
    assert record == {
        "event": "routing", "step": 7, "layers": [1, 3], "load_entropy": [pytest.approx(entropy), None],
        "peak": [1.5, None], "specialization": [1.0, None], "deviation": [pytest.approx(4 / 9), None],
        "mutual_information": [1.0, None], "balance": [2.0, None], "z": [0.5, None], "dead": [[2], [0, 1, 2]],
        "text": [[4, 0, 0], [0, 0, 0]], "image": [[0, 4, 0], [0, 0, 0]], "elapsed_s": 3.0,
    }  # fmt: skip


def test_an_alarm_is_a_line_of_its_own() -> None:
    record = alarm_record(7, Alarm("no_update", "ffn", 0.0, 1e-3, "ffn stands still"), 3.0)
    values = {"rule": "no_update", "subject": "ffn", "value": 0.0, "limit": 1e-3, "text": "ffn stands still"}
    assert record == {"event": "alarm", "step": 7, **values, "elapsed_s": 3.0}


def test_validation_headline_counts_sources_alike() -> None:
    sums = _sums([[0.0, 2.0, 0.0], [900.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0, 1, 0], [300, 0, 0], [0, 0, 0]])
    validation = Validation(sums, ("big", "small", "empty"), 0.1)
    assert validation.mean == 2.5
    assert validation_record(3, validation, 1.0)["loss"] == 2.5
