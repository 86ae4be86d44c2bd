"""tools/doctor.py prints what it found, as a table or JSON, and its exit code says whether the core is complete."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from megatron_nmm.device.health.facts import Facts
from megatron_nmm.device.health.selftest import Measured
from tests.device.health.test_judge import COMPLETE, having, without
from tests.house.tree import ROOT
from tools import doctor

Run = Callable[..., tuple[int, str]]
RIGHT = Measured("all-reduce", 2, 1 << 20, 0.001, True, 1.0)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The exit code and the output of the doctor on a machine with these facts."""

    def examine(facts: Facts, *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["doctor.py", *arguments])
        monkeypatch.setattr(doctor, "gather", lambda: facts)
        return doctor.main(), capsys.readouterr().out

    return examine


def test_a_complete_machine(run: Run) -> None:
    code, out = run(COMPLETE)
    assert code == 0
    assert "megatron-core" in out and out.rstrip().endswith("the core is complete")


def test_what_is_missing_comes_with_its_command(run: Run) -> None:
    code, out = run(replace(COMPLETE, packages=without(COMPLETE, "pyarrow")))
    assert code == 1
    assert out.rstrip().endswith("to mend:\n  source tools/setup_env.sh (pyarrow)")


def test_an_extra_that_is_missing_is_no_fault(run: Run) -> None:
    assert run(replace(COMPLETE, packages=without(COMPLETE, "ray", "simplejpeg")))[0] == 0


def test_without_rich_the_same_is_said_plainly(run: Run) -> None:
    code, out = run(replace(COMPLETE, packages=without(COMPLETE, "rich")))
    assert code == 1
    assert "core | rich | WRONG | not installed | console | source tools/setup_env.sh" in out.splitlines()


def test_it_answers_where_nothing_is_installed() -> None:
    """Python alone, without site-packages and without this package on its path."""
    command = [sys.executable, "-I", "-S", str(ROOT / "tools" / "doctor.py"), "--selftest"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "core | torch | WRONG | not installed | everything is computed with it | source tools/" in done.stdout
    assert "  source tools/setup_env.sh (torch, megatron-core, numpy, " in done.stdout
    assert "the self-test failed: " in done.stdout and done.stderr == ""


def test_json_has_findings_and_facts(run: Run) -> None:
    facts = replace(COMPLETE, packages=having(COMPLETE, nvidia_resiliency_ext="0.4.1"))
    code, out = run(facts, "--json")
    told = json.loads(out)
    assert (code, told["ok"]) == (1, False)
    (fault,) = [finding for finding in told["findings"] if finding["level"] == "fault"]
    assert fault["subject"] == "nvidia-resiliency-ext"
    assert told["facts"]["cpu_flags"] == ["amx_bf16", "avx2", "avx512f"]


@pytest.mark.parametrize(
    ("measured", "code", "sentence"),
    [
        (RIGHT, 0, "the core is complete"),
        (replace(RIGHT, right=False), 1, "all-reduce of 1,048,576 bytes computes wrong values"),
        (None, 1, "the self-test failed: no answer of 3 processes"),
    ],
)
def test_selftest(
    measured: Measured | None, code: int, sentence: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_this_machine(processes: int) -> list[Measured]:
        if measured is None:
            raise RuntimeError(f"no answer of {processes} processes")
        return [measured]

    monkeypatch.setattr(doctor.selftest, "on_this_machine", on_this_machine)
    found, out = run(COMPLETE, "--selftest", "--processes", "3")
    assert found == code
    assert sentence in out
