"""tools/sweep.py end to end: a real study of tiny models that is killed and goes on, dry runs, and what is refused."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_nmm.config.io import save
from megatron_nmm.files import lock
from megatron_nmm.models.accounting import parameters
from megatron_nmm.scaling import manifest
from megatron_nmm.scaling.sweep import local
from megatron_nmm.train import metrics
from tests.train.runs import tiny_run
from tools import fit, report, sweep

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "sweep.py"
STUDY = """
from dataclasses import replace

from megatron_nmm.config.io import load
from megatron_nmm.scaling.sweep.design import Candidate, Design, Grid


def study() -> Design:
    run = load({config!r})
    models = tuple(
        Candidate("early", f"w{{width}}", replace(run, model=replace(run.model, width=width))) for width in {widths!r}
    )
    return Design("tiny", (Grid(models, {tokens!r}),), warmup=2)
"""
TOKENS = (10 * 384, 40 * 384)
"""Of runs of 10 and 40 steps of 384 tokens."""
PATIENCE_S = 120.0


def _study(folder: Path, widths: tuple[int, ...] = (32, 48), tokens: tuple[int, ...] = TOKENS) -> Path:
    """A study file of tiny runs over corpora in ``folder``."""
    run = tiny_run(folder)
    assert run.data.global_batch * run.data.sequence_length == 384
    save(replace(run, threads=1, journal=replace(run.journal, telemetry=0)), folder / "tiny.json")
    file = folder / "study.py"
    file.write_text(STUDY.format(config=str(folder / "tiny.json"), widths=widths, tokens=tokens))
    return file


def _start(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TOOL), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def test_a_study_from_its_runs_to_its_page_although_it_is_killed(tmp_path: Path) -> None:
    """Killed after the first point, with a run under way; the same command to the end, then the law and the report."""
    widths, steps = (32, 48, 64), (10, 20, 40)
    study, output = _study(tmp_path, widths, tuple(384 * count for count in steps)), tmp_path / "out"
    arguments = ("--study", str(study), "--output", str(output))
    killed = _start(*arguments)
    end = time.monotonic() + PATIENCE_S
    while not (output / manifest.NAME).exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    before = manifest.read(output).points
    assert 1 <= len(before) < 9
    again = _start(*arguments, "--at-once", "2")
    said, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, said
    assert "9 of 9 points" in said and "study tiny: complete" in said
    held = manifest.read(output)
    assert held.faults == () and held.points[: len(before)] == before
    points = {point.run: point for point in held.points}
    names = [f"early-w{w}-45-45-10-s1234-{length}" for w in widths for length in ("15.36k", "3.84k", "7.68k")]
    assert sorted(points) == names
    for width in widths:
        long, brief = (points[f"early-w{width}-45-45-10-s1234-{length}"] for length in ("15.36k", "3.84k"))
        assert 0 < long.loss() < brief.loss()
        assert 30 * 384 < long.tokens <= 40 * 384 and 0 < long.vision_tokens < long.tokens
        assert long.tokens == pytest.approx(4 * brief.tokens, rel=0.1)
        assert long.flops == 6 * long.active * long.tokens
    assert points[names[0]].active == parameters(replace(tiny_run(tmp_path).model)).active
    assert list(output.rglob("step-*")) == [], "checkpoints are gone"
    records = metrics.read(output / "runs" / names[0] / metrics.NAME)
    assert [r["step"] for r in records if r["event"] == "step"] == list(range(1, 41)), "each step once"

    assert fit.main(["--study", str(output), "--bootstrap", "10"]) == 0
    assert report.main([str(output)]) == 0
    page = (output / "report" / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in names) and page.count("<svg") >= 5


def test_a_run_that_fails_is_named_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, output, name = _study(tmp_path), tmp_path / "out", "early-w48-45-45-10-s1234-3.84k"
    monkeypatch.setattr(sweep, "TRAINER", ROOT / "tests/scaling/sweep/fake_train.py")
    monkeypatch.setattr(local, "LOOK_S", 0.05)
    monkeypatch.setenv("FAIL", name)
    arguments = ["--study", str(study), "--output", str(output), "--at-once", "2"]
    assert sweep.main(arguments) == sweep.FAILED
    said = capsys.readouterr().out
    log = output / "logs/early-w48-45-45-10-s1234-trunk-w2.log"
    assert f"FAILED {name}: exit code 2: {name} is out of luck; its log is {log}" in said
    assert "study tiny: 1 of its points are missing" in said
    assert "out of luck" in log.read_text()
    monkeypatch.delenv("FAIL")
    assert sweep.main(arguments) == 0
    assert len(manifest.read(output).points) == 4


def test_points_of_runs_that_others_trained_are_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = ["--study", str(_study(tmp_path)), "--output", str(output)]
    assert sweep.main([*arguments, "--runner", "torchrun", "--processes", "2"]) == 0
    commands = (output / "commands.sh").read_text().splitlines()
    for line in commands[3:-1]:
        files = line.split()[2:]
        subprocess.run([sys.executable, str(ROOT / "tests/scaling/sweep/fake_train.py"), *files], check=True)
    assert sweep.main([*arguments, "--collect"]) == 0
    assert len(manifest.read(output).points) == 4
    assert sweep.main([*arguments, "--runner", "slurm"]) == 0, "nothing is left to submit"
    assert "complete" in capsys.readouterr().out and not (output / "slurm").exists()


def test_a_dry_run_tells_what_a_study_costs_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sweep.main(["--study", "p1", "--dry-run", "--gpu", "h100", "--mfu", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "457 runs, 115 trunks: 3.47e+23 FLOPs one by one, 1.76e+23 with shared trunks, which saves 49%" in said
    assert "98,947 GPU hours on NVIDIA H100 SXM at an MFU of 50% of 989 TFLOP/s" in said
    assert "Our reading: 457 = 4 x 76 early + 76 late + 76 sparse + 1 held-out model" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--study", "p2"], "no study is called p2; the nearest is p1, all are p1-mixture, p1, navil, laptop; or give"),
        (
            ["--study", "absent.py"],
            "study absent.py does not exist; give the path of a .py file with a function",
        ),
        (["--study", "p1", "--dry-run", "--gpu", "h10"], "no GPU is called h10; the nearest is h100"),
        (["--study", "p1", "--dry-run", "--mfu", "35"], "--mfu 35 is no share above 0 and at most 1"),
        (
            ["--study", "p1", "--dry-run", "--only", "family=lat"],
            "no run has family lat; there are early, late, spa",
        ),
        (["--study", "p1", "--dry-run", "--set", "optim.lr=1"], "optim.lr is not a key; the nearest key is"),
        (["--study", "p1"], "the study cannot start: 6 faults\n  1. early-0.275b-45-45-10-s1234-trunk-w1000: data."),
    ],
)
def test_what_is_refused(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sweep.main(arguments) == 2
    assert told in capsys.readouterr().err


def test_a_study_of_one_size_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["--study", str(_study(tmp_path, (32,))), "--dry-run"]) == 2
    assert "study tiny: family early has one size (w32)" in capsys.readouterr().err


def test_a_file_without_a_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("def study():\n    return 5\n")
    assert sweep.main(["--study", str(file)]) == 2
    assert f"study() of {file} returns int 5; let it return a Design" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "out"
    assert sweep.main(["--study", str(_study(tmp_path)), "--output", str(output)]) == 2
    assert f"{output} cannot be written: Not a directory; make room, or name another folder" in capsys.readouterr().err


def test_two_sweeps_of_one_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    with lock.hold(output):
        assert sweep.main(["--study", str(_study(tmp_path)), "--output", str(output)]) == 2
    assert f"{output} is in use by process {os.getpid()}" in capsys.readouterr().err
