"""A request to stop, by a signal: all ranks agree on it between two steps; a second Ctrl-C ends at once.

Under torchrun the signals come from torchrun: it passes Ctrl-C and SIGTERM on to its processes, waits for them (30 s,
or ``torchrun --shutdown-timeout SECONDS``: give more where a step and a checkpoint take longer), kills what is left,
and ends with a traceback of its own (SignalException) that means nothing else. A second Ctrl-C reaches the processes as
SIGTERM. A cluster's manager may send SIGTERM to torchrun and its processes alike, so SIGTERM alone never ends at once.
It is also what torchrun sends when another process has died: whether there will be a checkpoint is known, and said,
only once all ranks agree. SIGUSR1 is a manager's notice that the machines are taken back (examples/launch): the same
request, and the run tells its caller that it wants to go on elsewhere.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from megatron_nmm.config.refusal import INTERRUPTED

ASKS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
APART_S = 0.5
"""Signals closer together than this are one request that came by two ways."""


class Stop:
    """Catches the signals inside a ``with`` block of the main thread.

    Python runs signal handlers between two of its instructions, and a rank that waits in a collective is in none. So
    the bytes that the interpreter's own handler writes are read by a thread of ours: a second Ctrl-C ends a process
    that hangs as well.
    """

    def __init__(self, agree: Callable[[bool], bool], *, speaks: bool = True) -> None:
        """``agree`` is ``World.any``: whether the flag is set on at least one rank. One rank of a job ``speaks``."""
        self._agree = agree
        self._speaks = speaks
        self._asked = threading.Event()
        self._said = self._agreed = False
        self.taken_back = False
        """Whether this rank was told that its machine goes away."""

    def __enter__(self) -> Self:
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._listener = threading.Thread(target=self._listen, name="stop", daemon=True)
        self._listener.start()
        self._old_descriptor = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._old_handlers: dict[signal.Signals, Any] = {ask: signal.signal(ask, _let_the_thread_do_it) for ask in ASKS}
        return self

    def __exit__(self, *error: object) -> None:
        for ask, handler in self._old_handlers.items():
            signal.signal(ask, handler)
        signal.set_wakeup_fd(self._old_descriptor)
        self._write.close()  # the listener reads the end and returns
        self._listener.join()
        self._read.close()

    def requested(self) -> bool:
        """Whether any rank was asked to stop; the same answer on every rank. Call it once a step, on all of them."""
        self._agreed = self._agreed or self._agree(self._asked.is_set())
        if self._agreed:
            self._say()
        return self._agreed

    def _say(self) -> None:
        """Say that the run stops, once, from one rank."""
        if self._speaks and not self._said:
            os.write(2, b"\nstopping after this step, with a checkpoint (Ctrl-C again: at once, without)\n")
        self._said = True

    def _listen(self) -> None:
        """Take signals until the block ends; each arrives as one byte, its number."""
        interrupted: float | None = None
        while received := self._read.recv(1):
            if received[0] not in ASKS:
                continue
            if received[0] == signal.SIGUSR1:
                self.taken_back = True
            elif interrupted is not None and time.monotonic() - interrupted > APART_S:
                if self._speaks:
                    os.write(2, b"\nstopped at once; training continues from the last checkpoint when started again\n")
                os._exit(INTERRUPTED)
            if interrupted is None and received[0] == signal.SIGINT:
                interrupted = time.monotonic()
            self._asked.set()
            if received[0] == signal.SIGINT:  # somebody sits there and waits for an answer
                self._say()


def _let_the_thread_do_it(number: int, frame: FrameType | None) -> None:
    """A Python handler must be installed for the interpreter to write the byte; there is nothing left for it to do."""
