"""The launch scripts: the commands they print, what they refuse, and a job that is taken back and queued again."""

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_nmm.checkpoint.publish import CHECKPOINTS
from megatron_nmm.config import ParallelConfig, SaveConfig
from megatron_nmm.config.refusal import TAKEN_BACK
from megatron_nmm.train import metrics
from tests.chaos import launching
from tests.train.runs import tiny_run

FAKE = Path(__file__).parents[1] / "chaos" / "fake_slurm.sh"
RECIPE = ["examples/digits.py", "--set", "name=two words"]
RUN = r"examples/digits.py --set name=two\ words"


def _said(script: str, arguments: list[str], **more: str) -> launching.Ended:
    (ended,) = launching.finish([launching.start(script, arguments, **more)])
    return ended


@pytest.mark.parametrize(
    ("variables", "command"),
    [
        ({}, f"torchrun --nproc-per-node auto --max-restarts 3 --shutdown-timeout 110 --standalone {RUN}"),
        (
            {"NMM_NODES": "4", "NMM_MEET": "n1:29500", "NMM_PROCESSES": "8", "NMM_RESTARTS": "0", "NMM_JOB": "7"},
            "torchrun --nproc-per-node 8 --max-restarts 0 --shutdown-timeout 110 --nnodes 4 --rdzv-backend c10d "
            f"--rdzv-endpoint n1:29500 --rdzv-id 7 {RUN}",
        ),
    ],
)
def test_one_node_s_command(variables: dict[str, str], command: str) -> None:
    ended = _said("torchrun.sh", ["--dry-run", *RECIPE], **variables)
    assert (ended.code, ended.out.strip(), ended.error) == (0, command, "")


@pytest.mark.parametrize(
    ("variables", "step"),
    [
        ({}, ""),
        (
            {"CONTAINER": "a.sqsh"},
            f"--container-image a.sqsh --container-mounts {launching.ROOT}:{launching.ROOT} "
            f"--container-workdir {launching.ROOT} ",
        ),
        (
            {"CONTAINER": "a.sif", "RUNTIME": "apptainer"},
            f"apptainer exec --nv --bind {launching.ROOT} --pwd {launching.ROOT} a.sif ",
        ),
    ],
)
def test_a_cluster_s_commands(variables: dict[str, str], step: str) -> None:
    ended = _said("slurm.sh", ["--dry-run", *RECIPE], **variables)
    assert ended.code == 0, ended.error
    srun, torchrun = ended.out.strip().splitlines()
    assert srun.strip() == (
        f"srun --nodes 2 --ntasks 2 --kill-on-bad-exit=1 --export=ALL {step}bash examples/launch/torchrun.sh {RUN}"
    )
    assert "--nnodes 2 --rdzv-backend c10d --rdzv-endpoint FIRST_NODE:20000" in torchrun


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "message"),
    [
        ("torchrun.sh", [], {}, "error: no recipe; use "),
        ("torchrun.sh", ["--dry-run", "a.py"], {"NMM_NODES": "2"}, "error: NMM_NODES is 2 but NMM_MEET is not set"),
        ("torchrun.sh", ["a.py"], {"PATH": "/usr/bin:/bin"}, "error: torchrun is not on PATH; run: source tools/setup"),
        ("slurm.sh", ["a.py"], {}, "error: this is no Slurm job; use sbatch "),
        (
            "slurm.sh",
            ["--dry-run", "a.py"],
            {"CONTAINER": "x", "RUNTIME": "docker"},
            "error: RUNTIME docker is unknown",
        ),
    ],
)
def test_what_is_refused(script: str, arguments: list[str], variables: dict[str, str], message: str) -> None:
    ended = _said(script, arguments, **variables)
    assert ended.code == 2
    assert ended.error.startswith(message) and len(ended.error.splitlines()) == 1


def test_the_scripts_agree_with_the_package_on_the_exit_code() -> None:
    for script in ("torchrun.sh", "slurm.sh"):
        assert f"\nTAKEN_BACK={TAKEN_BACK} " in (launching.LAUNCH / script).read_text()


FAKE_TORCHRUN = """#!/usr/bin/env python3
import os, signal, subprocess, sys
open(os.environ["STARTED"], "w").close()
process = '''
import os, signal, time
time.sleep(0.5)  # still importing: a first word is lost
signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
time.sleep(60)
'''
subprocess.run([sys.executable, "-c", process])
sys.exit(int(os.environ["CODE"]))
"""


@pytest.mark.parametrize(("code", "expected"), [(0, TAKEN_BACK), (3, 3)])
def test_only_a_run_that_stopped_well_asks_to_be_queued_again(code: int, expected: int, tmp_path: Path) -> None:
    """The processes of this torchrun hear SIGUSR1, torchrun itself must not die of it."""
    (tmp_path / "torchrun").write_text(FAKE_TORCHRUN)
    (tmp_path / "torchrun").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{launching.environment()['PATH']}"
    started = tmp_path / "started"
    job = launching.start("torchrun.sh", ["a.py"], PATH=path, CODE=str(code), STARTED=str(started))
    while not started.exists():
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    (ended,) = launching.finish([job], timeout_s=30.0)
    assert (ended.code, ended.error) == (expected, "")


def _wait_for_step(folder: Path, job: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 120
    while not metrics.read(folder / metrics.NAME):
        assert job.poll() is None and time.monotonic() < end, launching.finish([job])
        time.sleep(0.1)


def test_a_job_that_is_taken_back_saves_and_is_queued_again(tmp_path: Path) -> None:
    """slurm.sh on two nodes of a machine that plays Slurm: two torchruns, one rendezvous, one process each."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("srun", "scontrol", "scancel"):
        (commands / name).symlink_to(FAKE)
    run = tiny_run(tmp_path, steps=100_000, parallel=ParallelConfig(tensor=2, time_limit_s=60.0))
    arguments = launching.prepare(tmp_path, replace(run, save=SaveConfig(every=0), threads=1))
    job = launching.start(
        "slurm.sh",
        arguments,
        PATH=f"{commands}{os.pathsep}{launching.environment()['PATH']}",
        FAKE_SLURM=str(tmp_path),
        SLURM_SUBMIT_DIR=str(launching.ROOT),
        SLURM_JOB_ID=str(launching.free_port() - 20_000),  # slurm.sh adds it to 20,000
        SLURM_JOB_NUM_NODES="2",
        SLURM_JOB_NODELIST="node[1-2]",
        NMM_PROCESSES="1",
    )
    _wait_for_step(Path(run.folder), job)
    job.send_signal(signal.SIGUSR1)
    (ended,) = launching.finish([job])
    assert ended.code == 0, ended.error
    assert "back into the queue as job" in ended.out
    assert (tmp_path / "requeued").read_text().startswith("requeue ")
    assert (tmp_path / "srun").read_text().startswith("--nodes 2 --ntasks 2 ")
    last = metrics.read(Path(run.folder) / metrics.NAME)[-1]["step"]
    assert f"stopped after step {last}" in ended.out
    assert (Path(run.folder) / CHECKPOINTS / f"step-{last:08d}").is_dir()
    assert "Traceback" not in ended.error, ended.error
