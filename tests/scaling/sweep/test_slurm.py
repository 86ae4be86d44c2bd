"""Slurm's arrays: branches wait for their trunk's task, lists and tasks agree, the scripts are clean."""

import os
import subprocess
from pathlib import Path

import pytest

from megatron_nmm.scaling.sweep import work
from megatron_nmm.scaling.sweep.expand import expand
from megatron_nmm.scaling.sweep.slurm import write_slurm, write_torchrun
from tests.scaling.sweep.designs import design, saved

ROOT = Path(__file__).parents[3]
COLLECT = ["python", "tools/sweep.py", "--study", "a b.py", "--collect"]
SBATCH = """#!/usr/bin/env bash
printf '%s\\n' "$*" >>"$SAID"
wc -l <"$SAID"
"""


@pytest.fixture
def jobs(tmp_path: Path) -> list[work.Job]:
    """Of the first model two branches are left, whose trunk has ended; of the second nothing is done."""
    first, second = expand(design(), tmp_path)
    for branch in first.branches:
        saved(first.run.folder, branch.start)
    return [work.job(first, first.branches[1:]), work.job(second, second.branches)]


def test_branches_wait_for_their_trunk(jobs: list[work.Job], tmp_path: Path) -> None:
    script = write_slurm(jobs, tmp_path / "out", COLLECT)
    subprocess.run(["shellcheck", str(script)], check=True)
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "sbatch").write_text(SBATCH)
    (fake / "sbatch").chmod(0o755)
    said = tmp_path / "said"
    said.touch()
    path = f"{fake}:{os.environ['PATH']}"
    subprocess.run([str(script), "--nodes=4"], check=True, env={**os.environ, "PATH": path, "SAID": str(said)})
    lines = said.read_text().splitlines()
    assert all("--nodes=4" in line for line in lines[:-1])
    tasks = [
        dict(word.split("=", 1) for word in line.split() if word.startswith("--") and "=" in word) for line in lines
    ]
    assert [(task["--job-name"], task.get("--array"), task.get("--dependency")) for task in tasks] == [
        ("toy-trunks", "1", None),
        ("toy-branches-0", "1", "aftercorr:1"),
        ("toy-ready-0", "0", None),
        ("toy-branches-1", "1", "aftercorr:1"),
        ("toy-ready-1", "0", None),
        ("toy-branches-2", "1", "aftercorr:1"),
        ("toy-points", None, "afterany:1:2:3:4:5:6"),
    ]
    assert lines[-1].endswith("--wrap python tools/sweep.py --study 'a b.py' --collect")


def test_a_task_trains_the_run_in_its_line(jobs: list[work.Job], tmp_path: Path) -> None:
    folder = write_slurm(jobs, tmp_path, COLLECT).parent
    for number, listed in ((1, "trunks"), (0, "ready-1"), (1, "branches-2")):
        ended = _task(folder / f"{listed}.txt", number)
        assert ended.returncode == 0
        run = Path(ended.stdout.split()[-1])
        assert run.name == "run.json" and run.parent.name.startswith("early-m" if number else "early-s")
    ended = _task(folder / "trunks.txt", 0)
    assert (ended.returncode, ended.stderr) == (2, f"error: {folder / 'trunks.txt'} has no run in line 1\n")


def _task(listed: Path, number: int) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "examples/launch/sweep.sh"), "--dry-run", str(listed)]
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(number)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_torchrun_lines(jobs: list[work.Job], tmp_path: Path) -> None:
    script = write_torchrun(jobs, tmp_path / "out", 8, COLLECT)
    subprocess.run(["shellcheck", str(script)], check=True)
    lines = script.read_text().splitlines()
    assert lines[2] == "export NMM_PROCESSES=${NMM_PROCESSES:-8}"
    trained = [[Path(word).parent.name for word in line.split()[2:]] for line in lines[3:-1]]
    assert [len(runs) for runs in trained] == [2, 4]
    assert trained[1][0] == "early-m-60-0-40-s7-trunk-w10"
    assert lines[-1] == "python tools/sweep.py --study 'a b.py' --collect"
