"""tools/tokenise.py stopped by kill -9 or Ctrl-C: the same command ends with the bytes of a whole run."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from megatron_nmm.data.tokenise import tokenise
from tests.data.corpora import content, quiet, settings
from tests.data.executors.corpora_of_units import inputs

UNIT_BYTES = 100
"""A unit a record, so that much is left to do when the first shards are finished."""
ROOT = Path(__file__).parents[2]


def _command(folder: Path) -> list[str]:
    command = [sys.executable, "tools/tokenise.py", "--input", *map(str, inputs(folder)), "--source", "killed"]
    command += ["--tokenizer", str(settings(folder).tokenizer.path), "--image-size", "8", "--patch", "4"]
    return [*command, "--workers", "2", "--unit-bytes", str(UNIT_BYTES), "--output", str(folder / "out")]


def _stopped(folder: Path, stop: Callable[[int], None]) -> tuple[int, str]:
    """Start a run, ``stop`` it with some shards finished; its exit code and what it said, all its processes gone."""
    with subprocess.Popen(
        _command(folder),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A suite that was started in the background ignores Ctrl-C, and so would everything it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        while len(list((folder / "out" / "shards").glob("0000?"))) < 3:
            assert running.poll() is None, "it ended before it could be stopped"
            time.sleep(0.001)
        # Looking for its processes takes a while on a busy machine; meanwhile it must not end.
        os.killpg(running.pid, signal.SIGSTOP)
        children = psutil.Process(running.pid).children(recursive=True)
        stop(running.pid)
        with contextlib.suppress(ProcessLookupError):  # killed altogether
            os.killpg(running.pid, signal.SIGCONT)
        _, said = running.communicate()
    assert not psutil.wait_procs(children, timeout=10)[1], "workers outlive their parent"
    return running.returncode, said


def _continues_to_the_same_bytes(folder: Path) -> None:
    finished = {path: path.stat().st_mtime_ns for path in (folder / "out" / "shards").glob("?????/*")}
    assert finished and not (folder / "out" / "corpus.json").exists()
    subprocess.run(_command(folder), cwd=ROOT, check=True)
    tokenise(inputs(folder), folder / "whole", settings(folder, "killed"), quiet, unit_bytes=UNIT_BYTES)
    assert content(folder / "out") == content(folder / "whole")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


@pytest.mark.parametrize("kill", [os.kill, os.killpg], ids=["the parent", "every process"])
def test_after_kill_9_the_same_command_continues(tmp_path: Path, kill: Callable[[int, int], None]) -> None:
    code, _ = _stopped(tmp_path, lambda process: kill(process, signal.SIGKILL))
    assert code == -signal.SIGKILL
    _continues_to_the_same_bytes(tmp_path)


def test_after_ctrl_c_the_same_command_continues(tmp_path: Path) -> None:
    code, said = _stopped(tmp_path, lambda group: os.killpg(group, signal.SIGINT))
    assert (code, said) == (130, "interrupted; finished shards are kept, the same command continues\n")
    assert not list((tmp_path / "out" / "shards").glob("*.partial"))
    _continues_to_the_same_bytes(tmp_path)
