"""kill -9 at any moment of a save: the newest intact checkpoint loads and no earlier one is lost."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import pytest

from megatron_nmm.checkpoint import publish
from megatron_nmm.config import RunConfig
from megatron_nmm.files import lock
from megatron_nmm.verify.layouts import LAYOUTS
from megatron_nmm.verify.workers import Place, WorkerError, WorkerPool
from tests.checkpoint import jobs
from tests.checkpoint.folders import faults, names

TP2, PP2 = LAYOUTS[0], LAYOUTS[2]
ROOT = Path(__file__).parents[2]
SAVE_FOREVER = """
import itertools, sys
from pathlib import Path
from megatron_nmm.checkpoint import publish
from tests.checkpoint.folders import save_bytes
checkpoints = Path(sys.argv[1])
newest = max((publish.step_of(path) for path in publish.published(checkpoints)), default=0)
for step in itertools.count(newest + 1):
    save_bytes(checkpoints, step, {f"__{rank}_0.distcp": bytes([step % 256]) * 300_000 for rank in range(4)})
    print(step, flush=True)
"""


def test_a_kill_before_any_line_of_a_save_loses_nothing(tmp_path: Path) -> None:
    """Every line that runs in publish, manifest, lock, durable and shutil while checkpoints are saved and replaced."""
    memory = Path("/dev/shm")  # hundreds of small folders: keep the disk out of it where the system lets us
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as scratch:
        command = [sys.executable, "-m", "tests.chaos.checkpoint_killer", scratch]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.rsplit(maxsplit=1)[-1]) > 400, run.stdout


def test_kills_from_outside_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    """Real signals at seeded moments, real flushes, one folder that lives through all of it."""
    moment = random.Random(7)
    for _ in range(6):
        command = [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as saver:
            assert saver.stdout is not None
            first = int(saver.stdout.readline())
            time.sleep(moment.uniform(0.0, 0.1))
            saver.send_signal(signal.SIGKILL)
            reported = [first, *(int(line) for line in saver.stdout)]
        for checkpoint in publish.published(tmp_path):
            assert faults(checkpoint) == []
        with lock.hold(tmp_path):
            publish.recover(tmp_path)
        steps = [publish.step_of(path) or 0 for path in publish.published(tmp_path)]
        assert steps[0] in (reported[-1], reported[-1] + 1), f"saved {reported[-1]}, found {steps}"
        assert all(name == publish.POINTER or publish.step_of(tmp_path / name) for name in names(tmp_path))


def _die_while_writing(place: Place, run: RunConfig, folder: Path) -> None:
    """Save step 1; during the save of step 2 rank 1 kills itself after its fifth tensor."""
    from torch.distributed.checkpoint import filesystem

    written = 0
    real = filesystem._write_item

    def write_or_die(*arguments: object) -> object:
        nonlocal written
        written += 1
        if place.rank == 1 and written > 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    with jobs.session(place, run) as here:
        here.train(1, 1)
        here.save(folder, 1)
        here.train(2, 2)
        with mock.patch.object(filesystem, "_write_item", write_or_die):
            here.save(folder, 2)


def test_a_rank_killed_while_tensors_are_written(pool: WorkerPool, tmp_path: Path) -> None:
    """The real model in two processes; the next start, in another layout, tidies up and takes step 1."""
    with WorkerPool(2) as victims, pytest.raises(WorkerError):
        victims.run(2, _die_while_writing, jobs.toy(TP2), tmp_path, time_limit_s=60)
    assert ".tmp-step-00000002" in names(tmp_path / "checkpoints")
    main, _ = pool.run(2, jobs.try_to_resume, jobs.toy(PP2), tmp_path)
    assert main[0] is not None and main[0].step == 1 and main[1] == ""
    assert main[2] == ["removed .tmp-step-00000002, left over from a save that did not finish"]
    assert names(tmp_path / "checkpoints") == ["latest", "step-00000001"]
