"""Kills a saving process before every single line of code it runs between `lock` and the end of `commit`.

Run as a script with a scratch folder. A light parent (no torch) forks one child per kill point; the child saves a fixed
series of checkpoints with the real code, traced line by line, and kills itself with SIGKILL before line n of the trace.
The parent then checks what lies on disk as a next start would find it. Prints the number of kill points as its last
word. fsync is a no-op here: a killed process loses nothing the kernel already has; the order of flushes that a power
cut needs is checked in tests/checkpoint/test_publish.py.
"""

import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from megatron_nmm.checkpoint import manifest, publish
from megatron_nmm.files import durable, lock
from tests.checkpoint.folders import faults, names, save_bytes

KEEP = 2
SERIES = ((1, b"first"), (2, b"second"), (2, b"second again"), (3, b"third"))
"""(step, content) in the order saved: growth, a replacement, then pruning."""
TRACED = {module.__file__ for module in (durable, lock, manifest, publish, shutil)} | {save_bytes.__code__.co_filename}


def save_series(checkpoints: Path, report: int) -> None:
    """Save the series; one byte to ``report`` after each finished save."""
    for step, content in SERIES:
        save_bytes(checkpoints, step, {"__0_0.distcp": content * 50, "progress.json": content}, KEEP)
        os.write(report, b".")


def killed_child(checkpoints: Path, line: int) -> tuple[bool, int]:
    """Save in a forked child that dies before traced line ``line``: (whether it died of it, saves it finished)."""
    reading, report = os.pipe()
    child = os.fork()
    if child == 0:
        left = line

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal left
            if event == "line":
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace if frame.f_code.co_filename in TRACED else None

        sys.settrace(trace)
        save_series(checkpoints, report)
        os._exit(0)
    os.close(report)
    _, status = os.waitpid(child, 0)
    finished = len(os.read(reading, len(SERIES) + 1))
    os.close(reading)
    return os.WIFSIGNALED(status), finished


def check(checkpoints: Path, finished: int) -> None:
    """What every start after a kill may rely on."""
    done = SERIES[:finished]
    for checkpoint in publish.published(checkpoints):
        assert faults(checkpoint) == [], f"{checkpoint.name} is visible and not intact"
    with lock.hold(checkpoints):
        publish.recover(checkpoints)
    intact = [publish.step_of(path) for path in publish.published(checkpoints)]
    expected = {step for step, _ in done}
    assert len(intact) >= min(KEEP, len(expected)), f"{intact} left after {finished} saves"
    assert not any(name.startswith(".") for name in names(checkpoints)), names(checkpoints)
    if done:
        last, content = done[-1]
        assert last in intact, f"step {last} was saved and is lost"
        assert intact[0] in (last, last + 1)
        found = (checkpoints / publish.name_of(last) / "progress.json").read_bytes()
        assert found in (content, dict(SERIES[: finished + 1])[last]), "a finished save was rolled back"
        pointed = checkpoints / (checkpoints / publish.POINTER).read_text().strip()
        assert faults(pointed) == [], "the pointer leads nowhere"
    save_bytes(checkpoints, 9, {"a": b"next"}, KEEP)
    assert names(checkpoints)[-1] == "step-00000009"


def main(scratch: Path) -> None:
    """Kill before line 1, 2, 3, ... until a child lives to the end."""
    os.fsync = lambda handle: None
    line = 1
    while True:
        checkpoints = scratch / str(line)
        died, finished = killed_child(checkpoints, line)
        if not died:
            assert finished == len(SERIES)
            break
        try:
            check(checkpoints, finished)
        except Exception as fault:
            raise AssertionError(f"killed before traced line {line}, after {finished} saves: {fault}") from fault
        shutil.rmtree(checkpoints)
        line += 1
    print(f"kill points: {line - 1}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
