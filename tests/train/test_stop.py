"""Signals ask for a stop that all ranks agree on; a second Ctrl-C ends a process at once, even one that hangs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from megatron_nmm.train.stop import APART_S, ASKS, Stop


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < end, "the signal never arrived"
        time.sleep(0.001)


@pytest.mark.parametrize("ask", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_a_request(ask: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    with Stop(lambda flag: flag) as stop:
        assert not stop.requested()
        os.kill(os.getpid(), ask)
        _wait_for(stop.requested)
        assert stop.requested()
        assert stop.taken_back == (ask == signal.SIGUSR1)
    assert "stopping after this step, with a checkpoint" in capfd.readouterr().err


def test_another_ranks_request_counts_and_stays() -> None:
    answers = iter([False, True])
    with Stop(lambda flag: next(answers)) as stop:
        assert [stop.requested() for _ in range(4)] == [False, True, True, True]


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(ask) for ask in ASKS]
    with Stop(lambda flag: flag):
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(ask) for ask in ASKS] == before


HANGING = """
import threading
from megatron_nmm.train.stop import Stop
with Stop(lambda flag: flag) as stop:
    print("ready", flush=True)
    threading.Thread(target=lambda: stop._asked.wait() and print("asked", flush=True)).start()
    lock = threading.Lock()
    lock.acquire()
    while not lock.acquire(timeout=60):  # swallows nothing, returns nothing: a rank that waits for a lost one
        pass
"""


@contextmanager
def _hanging(first: signal.Signals) -> Iterator["subprocess.Popen[str]"]:
    """A process that waits for ever in a ``with Stop``, after it took ``first`` for a request."""
    command = [sys.executable, "-c", HANGING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(first)
        assert process.stdout.readline() == "asked\n"
        if first == signal.SIGINT:
            process.stderr.readline()
            assert process.stderr.readline().startswith("stopping after this step")
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("again", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_ends_a_hanging_process(again: signal.Signals) -> None:
    """torchrun passes the second one on as SIGTERM."""
    with _hanging(signal.SIGINT) as process:
        time.sleep(1.5 * APART_S)
        process.send_signal(again)
        assert process.wait(10) == 130
        assert process.stderr is not None
        assert "stopped at once; training continues from the last checkpoint" in process.stderr.read()


def test_a_request_that_comes_to_nothing_promises_no_checkpoint() -> None:
    """torchrun sends SIGTERM when another process has died."""
    with _hanging(signal.SIGTERM) as process:
        process.kill()
        assert process.stderr is not None and process.stderr.read() == ""


def test_a_notice_that_is_repeated_never_ends_at_once() -> None:
    with _hanging(signal.SIGINT) as process:
        time.sleep(1.5 * APART_S)
        process.send_signal(signal.SIGUSR1)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)


@pytest.mark.parametrize(("first", "pause"), [(signal.SIGINT, 0.0), (signal.SIGTERM, 1.5 * APART_S)])
def test_one_request_that_comes_twice_is_one(first: signal.Signals, pause: float) -> None:
    """A terminal or a cluster's manager may signal the processes as well as torchrun, which passes it on."""
    with _hanging(first) as process:
        time.sleep(pause)
        process.send_signal(first)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
