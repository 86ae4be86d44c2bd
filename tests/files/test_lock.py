"""One writer per folder, also across a killed holder."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from megatron_nmm.files import lock

HOLDER = """
import sys, time
from pathlib import Path
from megatron_nmm.files import lock
with lock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def _other_process_holding(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            yield holder
        finally:
            holder.kill()


def test_the_second_writer_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with _other_process_holding(tmp_path) as holder:
        told = f"in use by process {holder.pid} on .*another folder"
        with pytest.raises(lock.FolderInUse, match=told), lock.hold(tmp_path):
            pytest.fail("two processes held one lock")


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with _other_process_holding(tmp_path) as holder:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with lock.hold(tmp_path):
            assert str(os.getpid()) in (tmp_path / lock.NAME).read_text()


def test_the_lock_is_free_after_the_block(tmp_path: Path) -> None:
    for _ in range(2):
        with lock.hold(tmp_path / "new" / "folder"):
            pass
    with pytest.raises(ValueError, match="inside"), lock.hold(tmp_path):
        raise ValueError("inside")
    with lock.hold(tmp_path):
        pass


def test_a_file_system_without_locks_lets_the_run_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(lock.UNSUPPORTED[0], "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with lock.hold(tmp_path):
        pass
