"""No rank waits silently: when a collective fails, one rank says in one message where every rank of the job stands.

Beside the training loop runs a thread that sleeps. When a rank loses the job it asks for the roll call through the
job's store, on a connection of its own, and the thread of every rank that still lives answers from its main thread's
stack, wherever that hangs. Who does not answer is gone. One rank speaks, the others end without a word.
"""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self

import torch.distributed as dist

from megatron_nmm.config.refusal import FAULTY, refuse
from megatron_nmm.device.lost_peer import is_late, lost_peer
from megatron_nmm.parallel.world import RankTimeout, World
from megatron_nmm.train import whereabouts

PERIOD_S = 0.5
"""How often a rank looks whether it is called."""
PATIENCE_S = 3.0
"""Longest that the speaker waits for answers, and the others for the speaker."""
FAREWELL_S = 10.0
"""Longest that a rank lives on after it was called without having lost the job itself: it is the one that hangs."""
SHOWN = 16
"""Places listed at most; ranks at the same place share a line."""
CALL, LOST, TOLD = "nmm-roll-call", "nmm-lost", "nmm-told"
"""Keys of the store: all are called, how many have lost the job, one has told."""
GONE, FAILED_TOO = "is gone", "failed too"
LIVES_ON = (
    "start the same command again and training continues from its newest checkpoint (torchrun --max-restarts does)"
)


@dataclass(frozen=True)
class Loss:
    """How this rank lost the job."""

    doing: str
    """What it waited in, as of whereabouts.describe."""
    cause: str
    """The error of the collective, one line."""


class RollCall:
    """Watches one rank inside a ``with`` block of its main thread; set ``step`` at the start of each.

    A collective's error that leaves the block becomes a RankTimeout with the report; ``speaks`` is true on one rank,
    which has printed it by then.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._step, self._began = 0, time.monotonic()
        self._store: Any = None
        self._over = threading.Event()
        self._loss: Loss | None = None
        self._seen, self._since = "", time.monotonic()

    @property
    def step(self) -> int:
        """The training step this rank is in; 0 = before the first one."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step, self._began = step, time.monotonic()

    def __enter__(self) -> Self:
        self._main = threading.get_ident()
        if self._world.size > 1:
            # A connection of its own: on the main thread's, this one would wait for what that one waits for.
            self._store = dist.distributed_c10d._get_default_store().clone()
            self._store.set(_key("process", self._world.rank), json.dumps([os.getpid(), socket.gethostname()]))
            self._thread = threading.Thread(target=self._listen, name="roll call", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is not None and self._store is not None and (loss := _loss(error, trace)):
            self._loss = loss
            self._lose(loss, error)
        self._over.set()
        if self._store is not None:
            self._thread.join()

    def _lose(self, loss: Loss, error: BaseException) -> NoReturn:
        """Speak, or wait until another rank has spoken; then raise."""
        told: RankTimeout | None = None
        try:
            speaks = int(self._store.add(LOST, 1)) == 1
            if speaks:
                told = _tell(RankTimeout(self._report(loss), speaks=True))
                self._store.set(TOLD, "")
            else:
                report = f"rank {self._world.rank} lost the job too; another rank says where all of them stand"
                self._store.set(_key("here", self._world.rank), self._answer())
                _wait(lambda: bool(self._store.check([TOLD])))
                time.sleep(PERIOD_S)  # torchrun reports the first that ends: that is to be the speaker
                told = RankTimeout(report, speaks=False)
        except RuntimeError:  # the store went down with the rank or the launcher that held it
            report = f"{self._headline(loss)}\n  the launcher does not answer either; {LIVES_ON}"
            told = told or _tell(RankTimeout(report, speaks=True))
        self._over.set()
        raise told from error

    def _report(self, loss: Loss) -> str:
        """Where every rank stands."""
        world, store = self._world, self._store
        store.set(CALL, "")
        others = [rank for rank in range(world.size) if rank != world.rank]
        _wait(lambda: all(self._answered(rank) or self._silent(rank).endswith(GONE) for rank in others))
        words = {
            rank: store.get(_key("here", rank)).decode() if self._answered(rank) else self._silent(rank)
            for rank in others
        }
        # Who failed as this rank did waits for the same one.
        groups = sorted(whereabouts.grouped(words), key=lambda group: group[1].endswith(FAILED_TOO))
        lines = [f"  {whereabouts.ranks(members)}: {text}" for members, text in groups]
        if len(lines) > SHOWN:
            lines[SHOWN:] = [f"  and {len(lines) - SHOWN} more places"]
        return "\n".join((self._headline(loss), *lines, f"  {_remedy(loss)}; {LIVES_ON}"))

    def _answered(self, rank: int) -> bool:
        return bool(self._store.check([_key("here", rank)]))

    def _headline(self, loss: Loss) -> str:
        world, limit = self._world, self._world.parallel.time_limit_s
        what = (
            f"waited {limit:g} s, the limit (parallel.time_limit_s)"
            if is_late(loss.cause)
            else f"lost a peer ({loss.cause})"
        )
        return f"rank {world.rank} of {world.size}, {self._at(loss.doing)}: {what}"

    def _at(self, doing: str) -> str:
        return f"step {self.step}, {doing}" if self.step else f"before the first step, {doing}"

    def _silent(self, rank: int) -> str:
        """What is known of a rank that has not answered."""
        if not self._store.check([_key("process", rank)]):
            return "never came"
        process, host = json.loads(self._store.get(_key("process", rank)))
        if host != socket.gethostname():
            return f"no answer from process {process} on {host}: it or its machine is gone, or hangs"
        return f"process {process} {GONE}" if not _lives(process) else f"process {process} lives but does not answer"

    def _listen(self) -> None:
        """Sleep, look, and answer once when called; then, if this rank is the one that hangs, end it."""
        limit, device = self._world.parallel.time_limit_s, self._world.device
        with suppress(RuntimeError):  # the store is gone: nobody can be answered
            while not self._over.wait(PERIOD_S):
                self._look()
                # Asked seldom: looking through the recorder takes longer than all else here.
                if self._since_step() > limit and (waited_s := device.waited_s()) > limit:
                    self._lose_from_here(Loss(self._seen, f"timed out after {waited_s:.0f} s"))
                if self._store.check([CALL]):
                    self._store.set(_key("here", self._world.rank), self._answer())
                    if not self._over.wait(FAREWELL_S):
                        os._exit(FAULTY)
                    return

    def _look(self) -> None:
        """Note since when the main thread has been where it is."""
        doing = whereabouts.describe(whereabouts.of_thread(self._main))
        if doing != self._seen:
            self._seen, self._since = doing, time.monotonic()

    def _since_step(self) -> float:
        return time.monotonic() - self._began

    def _lose_from_here(self, loss: Loss) -> NoReturn:
        """Lose the job while the main thread hangs: no error will reach it before the device ends the process."""
        try:
            self._lose(loss, TimeoutError(loss.cause))
        except RankTimeout:
            os._exit(FAULTY)

    def _answer(self) -> str:
        if self._loss is not None:
            return f"{self._at(self._loss.doing)}, {FAILED_TOO}"
        return f"{self._at(self._seen)}, for {time.monotonic() - self._since:.0f} s"


def _tell(error: RankTimeout) -> RankTimeout:
    """Print ``error`` at once: torchrun ends this process as soon as it sees who is gone, and signals are caught only
    inside the training loop."""
    refuse(error)
    error.told = True
    return error


def keep_quiet(store: Any) -> None:
    """Let the ranks that lose the job from now on say nothing: this one ends it with an error of its own, and tells."""
    store.add(LOST, 1)
    store.set(TOLD, "")


def _loss(error: BaseException, trace: TracebackType | None) -> Loss | None:
    """How the job was lost, if ``error`` says that it was."""
    cause = lost_peer(error.__cause__) if isinstance(error, RankTimeout) and error.__cause__ else lost_peer(error)
    return Loss(whereabouts.describe(whereabouts.of_error(trace)), cause) if cause is not None else None


def _remedy(loss: Loss) -> str:
    if is_late(loss.cause):
        return "who stands elsewhere holds up the others (raise parallel.time_limit_s if it is merely slow)"
    return "find out what ended the rank that is gone (its last lines, the system's out-of-memory log)"


def _key(what: str, rank: int) -> str:
    return f"nmm-{what}/{rank}"


def _wait(done: Any) -> None:
    end = time.monotonic() + PATIENCE_S
    while not done() and time.monotonic() < end:
        time.sleep(0.05)


def _lives(process: int) -> bool:
    """Whether a process of this machine runs; one that ended and was not yet taken note of does not."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
