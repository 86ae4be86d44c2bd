"""The console shows every step to a watcher, now and then a line to a log, and "-" where there is no value."""

import io
import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from megatron_nmm.train.collapse import Alarm
from megatron_nmm.train.console import (
    Screen,
    alarm_line,
    intake_line,
    routing_line,
    short,
    step_line,
    telemetry_line,
    validation_line,
)
from megatron_nmm.train.metrics import Record
from megatron_nmm.train.record import alarm_record, routing_record, telemetry_record
from megatron_nmm.train.routing import RoutingReading
from tests.train.readings import HEALTHY, without


def _record(step: int, finite: bool = True) -> Record:
    kinds = {"text": {"loss": None, "tokens": 0}, "caption": {"loss": 1.25, "tokens": 4}}
    numbers = {"tokens_per_second": 12_345.0, "image_tokens_per_second": 0.0, "flops_per_second": 5.5e12}
    rest: Record = {"memory_bytes": 2_000_000_000, "data_wait_share": 0.0031, "finite": finite}
    rest |= {"epochs": {"web": 1.25, "books": 0.5}, "samples": 1500, "replaced_samples": 0, "quarantined": 0}
    step_values = {"event": "step", "step": step, "loss": 1.25, "kinds": kinds}
    return {**step_values, "learning_rate": 1.5e-3, "grad_norm": 0.5, **numbers, **rest}


def test_step_line() -> None:
    assert step_line(_record(7), 100) == (
        "step   7/100  loss 1.2500 (text -, caption 1.2500)  lr 1.50e-03  norm 0.5000  12.3k tok/s  0 img tok/s  "
        "5.5T FLOP/s  memory 2G  data wait 0.3 %  epoch 0.5-1.25"
    )
    assert step_line(_record(7, finite=False), 100).endswith("gradients not finite: step skipped")
    bad = _record(7) | {"replaced_samples": 3, "epochs": {"web": 0.02}}
    assert step_line(bad, 100).endswith("epoch 0.02  replaced 3 of 1.5k samples")


def test_intake_line() -> None:
    assert intake_line(_record(7)) == "read 1,500 samples, epochs: web 1.25, books 0.5"
    bad = _record(7) | {"replaced_samples": 3, "quarantined": 2}
    assert intake_line(bad).endswith("books 0.5; 3 replaced, 2 in quarantine")


def test_validation_line_names_kinds_only_when_they_say_more() -> None:
    part = {"loss": 0.5, "tokens": 3}
    same: Record = {"step": 9, "loss": 0.5, "sources": {"text": part}, "kinds": {"text": part}, "seconds": 1.0}
    assert validation_line(same) == "validation after step 9: loss 0.5000, the mean of text 0.5000  1.0 s"
    assert "by kind text 0.5000" in validation_line({**same, "sources": {"web": part}})


def test_telemetry_line_sets_the_visual_side_against_the_others() -> None:
    assert telemetry_line(telemetry_record(40, HEALTHY, 1.0)) == (
        "telemetry of step 40: gradients visual 0.87, others 0.87; updates / weights visual 0.001, others 0.001; "
        "features visual / text 0.83 to 1.5"
    )
    text_only = replace(without(HEALTHY, "vision", "connector", "visual_ffn"), visual=(math.nan,) * 3)
    line = telemetry_line(telemetry_record(40, text_only, 1.0))
    assert "gradients others 0.87; updates / weights others 0.001; features visual / text - (no image" in line


ROUTED = RoutingReading.of(
    (1, 2), torch.tensor([[[4, 0, 0], [0, 4, 0]], [[2, 2, 2], [2, 2, 2]]]), torch.tensor([[8.4, 0.0, 8.0]] * 2)
)


def test_routing_line_tells_load_and_specialization() -> None:
    assert routing_line(routing_record(340, ROUTED, 1.0)) == (
        "routing of step 340: load entropy 0.82, most loaded 1.5 x the mean, dead 1, specialization 0.5 (first layer "
        "1, last 0), balance loss 1.0500"
    )
    (first, _) = ROUTED.layers
    assert "specialization 1, balance" in routing_line(routing_record(340, RoutingReading((first,)), 1.0))
    empty = RoutingReading.of((1,), torch.zeros(1, 2, 2), torch.zeros(1, 3))
    assert routing_line(routing_record(340, empty, 1.0)).endswith(
        "load entropy -, most loaded - x the mean, dead 2, specialization -, balance loss -"
    )


def test_alarm_line() -> None:
    alarm = Alarm("no_update", "ffn", 0.0, 1e-3, "ffn stands still")
    assert alarm_line(alarm_record(40, alarm, 1.0)) == "ALARM in step 40: ffn stands still"


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (999.0, "999"), (1e3, "1k"), (2.344e9, "2.34G")])
def test_short(value: float, text: str) -> None:
    assert short(value) == text


def _run(terminal: bool, steps: int) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=400, highlight=False, soft_wrap=True)
    with Screen(steps, console) as screen:
        screen.start(0)
        for step in range(1, steps + 1):
            screen.step(_record(step))
            screen.telemetry(telemetry_record(step, HEALTHY, 1.0))
            screen.telemetry(routing_record(step, ROUTED, 1.0))
        screen.say("a remark in [brackets]")
    return out.getvalue()


def test_a_watcher_sees_every_step_and_a_bar() -> None:
    shown = _run(terminal=True, steps=5)
    assert all(f"step {step}/5  " in shown for step in range(1, 6))
    assert all(f"telemetry of step {step}: " in shown for step in range(1, 6))
    assert all(f"routing of step {step}: " in shown for step in range(1, 6))
    assert "eta" in shown


def test_a_log_gets_the_first_and_the_last_step_of_a_fast_run_and_all_remarks() -> None:
    lines = _run(terminal=False, steps=50).splitlines()
    assert [line.split("  loss")[0].split(": ")[0] for line in lines[:6]] == [
        *("step  1/50", "telemetry of step 1", "routing of step 1"),
        *("step 50/50", "telemetry of step 50", "routing of step 50"),
    ]
    assert lines[3].endswith("eta 0:00:00")
    assert lines[6:] == ["a remark in [brackets]"]
