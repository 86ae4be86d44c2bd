"""A run that would read its sources more often than it may is told so before it starts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_nmm.config import DataConfig, RunConfig, SourceConfig
from megatron_nmm.config.check import check_files
from megatron_nmm.config.limits import limit_faults, most_packs


def _run(folder: Path, *max_epochs: float | None, steps: int = 10) -> RunConfig:
    """Sources of 20, 40, ... packs, read 4 packs a step."""
    for number in range(len(max_epochs)):
        plan = folder / str(number) / "plan-1024"
        plan.mkdir(parents=True, exist_ok=True)
        (plan / "report.json").write_text(json.dumps({"packs": 20 * (number + 1)}))
    sources = tuple(SourceConfig(str(folder / str(n)), max_epochs=limit) for n, limit in enumerate(max_epochs))
    return RunConfig(folder=str(folder / "run"), steps=steps, data=DataConfig(train=sources, global_batch=4))


@pytest.mark.parametrize(("max_epochs", "most"), [(0.29, 29), (0.295, 29), (1, 100), (2.5, 250)])
def test_a_limit_holds_as_it_is_written(max_epochs: float, most: int) -> None:
    assert most_packs(max_epochs, 100) == most


@pytest.mark.parametrize(
    ("max_epochs", "steps", "fault"),
    [
        ((), 10, False),
        ((None,), 1000, False),
        ((0.5, None), 1000, False),
        ((2.0,), 10, False),  # 40 packs, all of them
        ((2.0,), 11, True),
        ((0.29, 0.5), 6, False),  # 5 and 20 packs: a part of a pack is none
        ((0.29, 0.5), 7, True),
    ],
)
def test_limits_are_compared_with_what_the_run_reads(
    tmp_path: Path, max_epochs: tuple[float | None, ...], steps: int, fault: bool
) -> None:
    assert bool([*limit_faults(_run(tmp_path, *max_epochs, steps=steps))]) == fault


def test_the_message_has_the_numbers_and_the_remedy(tmp_path: Path) -> None:
    run = _run(tmp_path, 1.5, 0.5, steps=1000)
    (fault,) = limit_faults(run)
    assert str(fault) == (
        "1,000 steps of data.global_batch 4 read 4,000 packs, and max_epochs of the sources in data.train leaves 50; "
        "use at most 12 steps, raise data.train.N.max_epochs of a source, or set one to none"
    )
    assert fault in check_files(run)


@pytest.mark.parametrize("report", ["", "[]", '{"packs": null}'])
def test_a_report_without_sense_is_left_to_who_opens_the_plan(tmp_path: Path, report: str) -> None:
    run = _run(tmp_path, 0.5, steps=1000)
    (tmp_path / "0" / "plan-1024" / "report.json").write_text(report)
    assert not [*limit_faults(run)]
    (source,) = run.data.train
    elsewhere = replace(source, plan=str(tmp_path / "none"))
    assert not [*limit_faults(replace(run, data=replace(run.data, train=(elsewhere,))))]


def test_values_that_make_no_sense_are_left_to_their_own_check(tmp_path: Path) -> None:
    run = _run(tmp_path, 0.5, steps=1000)
    assert [*limit_faults(run)]
    assert not [*limit_faults(replace(run, steps="many"))]  # type: ignore[arg-type]
    assert not [*limit_faults(_run(tmp_path, float("nan"), steps=1000))]
    assert not [*limit_faults(replace(run, data=replace(run.data, global_batch=0)))]


def test_a_run_that_goes_on_may_have_read_other_sources_before(tmp_path: Path) -> None:
    run = _run(tmp_path, 0.5, steps=1000)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    assert not [*limit_faults(run)]
