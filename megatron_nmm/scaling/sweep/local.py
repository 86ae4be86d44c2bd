"""Runs a study on this machine: some trunks at a time, each in a process of its own, until nothing is left."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from megatron_nmm.files import lock
from megatron_nmm.scaling.point import Point
from megatron_nmm.scaling.sweep import work
from megatron_nmm.scaling.sweep.work import Job

LOOK_S = 1.0
LOG_LINES = 40
"""At a log's end in which an error is looked for."""
LEFT_S = 150.0
"""Longest that a run's folder is waited for which a process of a killed sweep still holds: it saves and stops."""

WITH_PARENT = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(130); os.execvp(sys.argv[2], sys.argv[2:])"
)
"""Starts a command that is told to stop (PR_SET_PDEATHSIG) when this process dies, however it dies."""


@dataclass(frozen=True)
class Failure:
    """A run that ended badly."""

    run: str
    log: Path
    why: str
    """Its last words."""


@dataclass(frozen=True)
class Settings:
    """How a study is run here."""

    output: Path
    trainer: Path
    """tools/train.py."""
    processes: int = 1
    """Of every run; above 1 under torchrun."""
    at_once: int = 1
    keep_models: bool = False


@dataclass
class Active:
    """A job that is running."""

    job: Job
    log: Path
    process: subprocess.Popen[bytes]


@dataclass
class State:
    """Where the sweep stands, for whoever shows it."""

    waiting: list[Job]
    active: list[Active] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


Watch = Callable[[State, list[Point]], None]
"""Called about once a second with the points that are new."""


def sweep(jobs: Iterable[Job], settings: Settings, watch: Watch) -> list[Failure]:
    """Run all ``jobs``; those of a failed run's trunk that do not need it go on. Raises KeyboardInterrupt after the
    runs, which Ctrl-C reaches as well, have saved and stopped."""
    state = State(list(jobs))
    try:
        while state.waiting or state.active:
            while state.waiting and len(state.active) < settings.at_once:
                state.active.append(_start(state.waiting.pop(0), settings))
            watch(state, [point for one in state.active for point in _collect(one, settings, state)])
            for one in [one for one in state.active if one.process.poll() is not None]:
                state.active.remove(one)
                watch(state, _collect(one, settings, state))
                state.waiting[:0] = _ended(one, settings, state)
            time.sleep(LOOK_S)
    finally:
        for one in state.active:
            one.process.terminate()
        for one in state.active:
            one.process.wait()
    watch(state, [])
    return state.failures


def command(job: Job, settings: Settings) -> list[str]:
    """Trains the runs of ``job`` one after the other."""
    launcher = [sys.executable]
    if settings.processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(settings.processes)]
    return [*launcher, str(settings.trainer), *(str(work.config_file(run)) for run in job.runs)]


def _start(job: Job, settings: Settings) -> Active:
    log = settings.output / "logs" / f"{job.trunk.run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    for run in job.runs:
        _wait_for(Path(run.folder))
    work.make_ready(job)
    with log.open("ab") as stream:
        started = [sys.executable, "-c", WITH_PARENT, str(os.getpid()), *command(job, settings)]
        process = subprocess.Popen(started, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL)
    return Active(job, log, process)


def _wait_for(folder: Path) -> None:
    """Until no other process writes into ``folder``, or long enough that the run should say itself who does."""
    end = time.monotonic() + LEFT_S
    while folder.is_dir() and time.monotonic() < end:
        with suppress(lock.FolderInUse), lock.hold(folder):
            return
        time.sleep(LOOK_S)


def _collect(one: Active, settings: Settings, state: State) -> list[Point]:
    """Points that are new; branches that ended without one are failures."""
    found, faults = work.collect(one.job, settings.output)
    known = {failure.run for failure in state.failures}
    state.failures += [Failure(run, one.log, why) for run, why in faults.items() if run not in known]
    return found


def _ended(one: Active, settings: Settings, state: State) -> list[Job]:
    """What is left to do of a job whose process has ended; the run that failed is noted."""
    settled = {point.run for point in work.points(settings.output)} | {failure.run for failure in state.failures}
    left = tuple(branch for branch in one.job.branches if branch.run.name not in settled)
    work.clean(one.job.trunk, settings.output, keep_models=settings.keep_models)
    if not left:
        return []
    why = _last_words(one.log, one.process.returncode)
    begin = tuple(branch for branch in left if work.can_begin(one.job.trunk, branch))
    if len(begin) == len(left):
        state.failures.append(Failure(left[0].run.name, one.log, why))
        rest = left[1:]
    else:
        trunk = one.job.trunk.run.name
        state.failures.append(Failure(trunk, one.log, why))
        lost = [branch.run.name for branch in left if branch not in begin]
        state.failures += [Failure(run, one.log, f"not run: its trunk {trunk} failed") for run in lost]
        rest = begin
    return [work.job(one.job.trunk, rest)] if rest else []


def _last_words(log: Path, code: int) -> str:
    """The last error in the log, or its last line."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    errors = [line for line in lines[-LOG_LINES:] if line.startswith("error: ")]
    return f"exit code {code}: {(errors or lines or ['no word'])[-1].removeprefix('error: ')}"
