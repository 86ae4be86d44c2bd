"""The plan: legal layouts by config's word alone, the fitting ones ranked, and clear words where there are none."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache

import pytest

from megatron_nmm.config import DataConfig, ModelConfig, RunConfig
from megatron_nmm.config.check import check
from megatron_nmm.config.overrides import apply
from megatron_nmm.errors import ConfigError
from megatron_nmm.planner import layouts, report
from megatron_nmm.planner.efficiency import ASSUMPTIONS, shares
from megatron_nmm.planner.gpus import GPUS, gpu
from megatron_nmm.planner.layouts import changes, has_legal, laid_out, legal, nearest_counts
from megatron_nmm.planner.memory import Memory
from megatron_nmm.planner.place import Place
from megatron_nmm.planner.plan import Plan, by_mode, fullest, plan
from tests.house.tree import ROOT
from tests.planner.toys import TOYS

H100 = GPUS["h100"]
LARGE = RunConfig(
    name="large",
    model=ModelConfig(layers=9, width=20_480, heads=160, vocabulary=131_072),
    data=DataConfig(global_batch=64, sequence_length=16_384),
)


@cache
def large() -> Plan:
    """Planned once for all tests."""
    return plan(LARGE, 64, H100, shares())


EIGHT_BITS = apply(TOYS["dense"], ["precision.recipe=fp8_current"])


def test_every_layout_is_legal_and_no_legal_one_is_left_out() -> None:
    """Against ``check`` on all values, without the glance that spares most of its calls."""
    run = TOYS["sparse"]
    found = list(legal(run, 8))
    assert found and not [fault for layout in found for fault in check(layout, 8)]
    every = 0
    for tensor in (1, 2, 3, 4, 8):
        for pipeline in range(1, 5):
            for expert in (1, 2, 4):
                sizes = {"parallel.tensor": tensor, "parallel.pipeline": pipeline, "parallel.expert": expert}
                every += not check(laid_out(run, sizes), 8)
    plain = [r for r in found if r.data.microbatch == 2 and r.parallel.context == r.parallel.virtual_stages == 1]
    kept = {(r.parallel.tensor, r.parallel.pipeline, r.parallel.expert) for r in plain}
    assert len(kept) == every


def test_what_selects_a_layout_makes_it_again() -> None:
    run = TOYS["navil"]
    found = list(legal(run, 4))
    assert len(found) > 10
    for layout in found:
        assert apply(run, changes(layout, 4)) == layout


def test_the_best_is_the_fastest_that_fits() -> None:
    run = replace(TOYS["navil"], data=replace(TOYS["navil"].data, global_batch=64))
    planned = plan(run, 8, H100, shares())
    seconds = [one.seconds for one in planned.fitting]
    assert seconds == sorted(seconds) and planned.legal == len(planned.fitting)
    # Everything fits, so nothing is recomputed: every layout once.
    assert planned.legal == len([each for each in legal(run, 8) if each.parallel.recompute == "none"])
    assert all(one.memory.total <= H100.memory for one in planned.fitting)
    assert report.layout(planned.best) in report.why(planned)


def test_a_layout_recomputes_as_little_as_fits_and_else_is_not_ranked() -> None:
    planned = large()
    room = H100.memory * ASSUMPTIONS["usable"].value
    sizes: dict[tuple[str, ...], dict[str, float]] = {}
    for run in legal(LARGE, 64):
        layout = tuple(change for change in changes(run, 64) if "recompute" not in change)
        sizes.setdefault(layout, {})[run.parallel.recompute] = fullest(run, Place.of(run, 64))[1].total
    fitting = [next((mode for mode in sizes[one] if sizes[one][mode] <= room), None) for one in sizes]
    assert planned.legal == len(sizes) > len(planned.fitting) > 0
    chosen = [one.run.parallel.recompute for one in planned.fitting]
    assert sorted(chosen) == sorted(mode for mode in fitting if mode) and {"none", "full"} <= set(chosen)


def test_recomputing_more_keeps_less() -> None:
    sizes = by_mode(large().best)
    assert sizes["none"] > sizes["selective"] > sizes["full"]


def test_where_nothing_fits_the_missing_bytes_are_told_and_what_helps_does() -> None:
    with pytest.raises(ConfigError, match=r"large fits in no layout on 4 x NVIDIA H100 SXM: the smallest of") as error:
        plan(LARGE, 4, H100, shares())
    told = str(error.value)
    smallest = min(fullest(run, Place.of(run, 4))[1].total for run in legal(LARGE, 4))
    assert f"needs {smallest / 1e9:.1f} GB" in told
    assert f"{(smallest - H100.memory * 0.9) / 1e9:.1f} GB more than the 72.0 GB that are usable" in told
    more = int(told.split("--gpus ")[1].split(",")[0])
    assert plan(LARGE, more, H100, shares()).fitting


def test_a_number_of_gpus_without_layout_names_the_nearest() -> None:
    run = replace(TOYS["dense"], data=replace(TOYS["dense"].data, global_batch=24))
    assert nearest_counts(run, 7) == [6, 8]
    with pytest.raises(ConfigError, match=r"no layout of run is legal on 7 GPUs .* use --gpus 6 or 8"):
        plan(run, 7, H100, shares())
    assert has_legal(run, 6) and has_legal(run, 8) and not has_legal(run, 7)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: gpu("h1000"), "no GPU is called h1000; the nearest is h100, all are a100-80g, h100, h200, b200"),
        (lambda: shares(["product=0.5"]), "product is no assumption; the nearest is products"),
        (lambda: shares(["products=1.5"]), "'1.5' is no share above 0 and at most 1; write e.g. --eff"),
        (lambda: shares(["fast"]), "'fast' is no share above 0 and at most 1; write e.g. --efficiency 0.5"),
        (lambda: shares(["data_overlap=-1"]), "'-1' is no share from 0 to 1"),
        (lambda: plan(EIGHT_BITS, 1, GPUS["a100-80g"], shares()), "fp8_current does not run on NVIDIA A100 80GB SXM"),
        (lambda: plan(EIGHT_BITS, 1, GPUS["a100-80g"], shares()), "use --gpu h100, h200 or b200, or precision.recipe"),
    ],
)  # fmt: skip
def test_bad_input_says_what_would_do(call, told: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError) as error:
        call()
    assert told in str(error.value)


def test_every_gpu_names_its_source() -> None:
    for one in GPUS.values():
        assert "data sheet" in one.source
        assert one.fp8 in (0.0, pytest.approx(2 * one.bf16, rel=0.01))
        assert one.network < one.node_link < one.bandwidth


def test_axes_follow_the_configuration() -> None:
    """Every key that is varied is one of the tree, with values that it takes."""
    keys = [axis.key for axis in layouts.axes(TOYS["dense"], 8)]
    assert {"parallel.tensor", "parallel.pipeline", "data.microbatch"} <= set(keys)
    apply(TOYS["dense"], [f"{axis.key}={axis.values[0]}" for axis in layouts.axes(TOYS["dense"], 8)])


def test_a_fault_that_no_layout_mends_is_told_as_it_is() -> None:
    run = replace(TOYS["navil"], data=replace(TOYS["navil"].data, augment=True))
    with pytest.raises(ConfigError, match=r"cannot be planned in any layout: data.augment .*native"):
        plan(run, 8, H100, shares())


def test_memory_adds_up() -> None:
    assert Memory(1, 2, 4, 8.0, 16.0, 3.0).total == 31.0


TOOL = [sys.executable, str(ROOT / "tools" / "plan.py"), "--recipe", str(ROOT / "examples" / "navil.py")]
WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The tool in a process in which importing torch fails."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *TOOL[1:3], *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_the_tool_prints_tables_reason_and_choice() -> None:
    done = _run(f"{TOOL[3]}:9b-s2", "--gpus", "64", "--best", "2")
    assert done.returncode == 0, done.stderr
    assert "navil-9b-s2 on 64 x NVIDIA H100 SXM" in done.stdout
    for word in ("bubble", "slowest stage", "MFU", "faster than", "NVLink", "--set parallel.tensor=", "predictions"):
        assert word in done.stdout
    assert done.stdout.count("320 rows of 16,384 tokens") == 1


def test_the_tool_writes_json_that_can_be_started_from() -> None:
    done = _run(f"{TOOL[3]}:2b-s1.1", "--gpus", "16", "--gpu", "h200", "--best", "3", "--json")
    planned = json.loads(done.stdout)
    assert len(planned["layouts"]) == 3 and planned["gpu"]["memory"] == 141e9
    best = planned["layouts"][0]
    assert sum(best["memory"][kind] for kind in report.KINDS) == pytest.approx(best["memory"]["total"])
    assert sum(best["seconds"].values()) == pytest.approx(best["step_s"])
    assert any(change.startswith("parallel.tensor=") for change in best["set"])


def test_the_tool_refuses_in_one_line() -> None:
    for arguments, told in (
        (("--gpus", "64", "--gpu", "v100"), "error: no GPU is called v100; the nearest is"),
        (("--gpus", "0"), "--gpus"),
        (("--gpus", "8", "--set", "parallel.tensr=2"), "parallel.tensr is not a key"),
    ):
        done = _run(f"{TOOL[3]}:9b-s2", *arguments)
        assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr
