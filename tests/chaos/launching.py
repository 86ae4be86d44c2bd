"""Jobs of a tiny run, started by the scripts of examples/launch as a cluster would; some of their ranks die."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from megatron_nmm.config import RunConfig
from megatron_nmm.config.io import save

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "examples" / "launch"
RECIPE = """
import os
import signal

from megatron_nmm.config import RunConfig
from megatron_nmm.parallel import schedule
from megatron_nmm.train.main import main

def recipe() -> RunConfig:
    return RunConfig()

def dies_in(step):
    # A kill -9 in the middle of a step, of one rank, the first time that the job runs.
    real, taken = schedule.forward_backward, 0

    def forward_backward(*arguments, **options):
        nonlocal taken
        taken += 0 if options.get("forward_only") else 1
        if taken == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    schedule.forward_backward = forward_backward

if __name__ == "__main__":
    victim, _, step = os.environ.get("VICTIM", "").partition(":")
    if victim == os.environ["RANK"] and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        dies_in(int(step))
    main(recipe)
"""


@dataclass(frozen=True)
class Ended:
    """How a launched script ended."""

    code: int
    out: str
    error: str


def prepare(folder: Path, run: RunConfig) -> list[str]:
    """Write a recipe and ``run`` into ``folder``; the arguments that start it."""
    (folder / "recipe.py").write_text(RECIPE)
    save(run, folder / "run.json")
    return [str(folder / "recipe.py"), "--config", str(folder / "run.json")]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with this package and this Python's commands first."""
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "NMM_")) and k not in ("RANK", "WORLD_SIZE")
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**clean, "PYTHONPATH": str(ROOT), "PATH": path, **more}


def start(script: str, arguments: list[str], **more: str) -> "subprocess.Popen[str]":
    """Start a script of examples/launch."""
    command = ["bash", str(LAUNCH / script), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=environment(**more))


def finish(processes: "list[subprocess.Popen[str]]", timeout_s: float = 250.0) -> list[Ended]:
    """Wait for all of them, one after the other; what is left after an error is killed."""
    try:
        outputs = [process.communicate(timeout=timeout_s) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [Ended(process.returncode, out, error) for process, (out, error) in zip(processes, outputs, strict=True)]


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
