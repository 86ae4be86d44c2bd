"""The command line of a recipe: errors a user can mend are one message and exit code 2; a whole run as a process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_nmm.checkpoint.publish import CHECKPOINTS
from megatron_nmm.config.io import save
from megatron_nmm.config.refusal import TAKEN_BACK
from megatron_nmm.train import metrics
from tests.train.runs import tiny_run

ROOT = Path(__file__).parents[2]
RECIPE = """
from megatron_nmm.config import RunConfig
from megatron_nmm.train.main import main

def recipe() -> RunConfig:
    return RunConfig()

if __name__ == "__main__":
    main(recipe)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, data, and the configuration of a tiny run."""
    path = tmp_path_factory.mktemp("main")
    (path / "recipe.py").write_text(RECIPE)
    save(tiny_run(path), path / "tiny.json")
    return path


def _start(folder: Path, *arguments: str, processes: int = 1) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    environment = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    return subprocess.Popen(
        [sys.executable, *launcher, str(folder / "recipe.py"), "--config", str(folder / "tiny.json"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def test_one_process_for_a_layout_of_two_is_told_how_to_start(folder: Path) -> None:
    with _start(folder, "--set", "parallel.tensor=2") as process:
        _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "Traceback" not in error
    assert error.startswith("error: parallel.tensor 2 x parallel.pipeline 1 needs 2 processes, this is one")
    assert "torchrun --nproc-per-node 2" in error


def test_an_error_of_all_ranks_is_said_once(folder: Path) -> None:
    other = folder / "other"
    save(tiny_run(folder, seed=99), other / "config.json")
    with _start(folder, "--set", f"folder={other}", processes=2) as process:
        _, error = process.communicate(timeout=120)
    assert process.returncode != 0
    assert error.count("error: ") == error.count("error: " + str(other)) == 1
    # torchrun's report ends with it, too.
    assert f"traceback : {other} holds another run: seed was 99, now 1234" in error
    assert 'recipe.py", line' not in error


def _interrupted(folder: Path, ask: signal.Signals, *arguments: str, after: int) -> tuple[int, str, str]:
    """A run that gets a signal once it has taken step ``after``: its exit code and what it printed."""
    with _start(folder, *arguments, "--set", "steps=100000") as process:
        end = time.monotonic() + 120
        lines: list[metrics.Record] = []
        while not lines or lines[-1]["step"] < after:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, f"{after} steps took two minutes"
            time.sleep(0.05)
            lines = metrics.read(folder / "interrupted" / metrics.NAME)
        process.send_signal(ask)
        out, error = process.communicate(timeout=60)
    return process.returncode, out, error


def test_a_signal_saves_and_the_same_command_goes_on(folder: Path) -> None:
    """Ctrl-C, and a cluster manager's notice, of which the caller learns by the exit code."""
    run = folder / "interrupted"
    arguments = ("--set", f"folder={run}", "--set", "save.every=0", "--set", "evaluate.every=0")
    code, out, error = _interrupted(folder, signal.SIGINT, *arguments, after=3)
    last = metrics.read(run / metrics.NAME)[-1]["step"]
    assert code == 0, error
    assert f"stopped after step {last}; start the same command again to continue" in out
    assert "stopping after this step" in error
    assert (run / CHECKPOINTS / f"step-{last:08d}").is_dir()
    code, out, error = _interrupted(folder, signal.SIGUSR1, *arguments, after=last + 1)
    assert code == TAKEN_BACK == 75, error
    assert f"continuing after step {last}, {8 * last:,} packs consumed" in out
    steps = [r["step"] for r in metrics.read(run / metrics.NAME) if r["event"] == "step"]
    assert steps == list(range(1, steps[-1] + 1))
    assert (run / CHECKPOINTS / f"step-{steps[-1]:08d}").is_dir()
