"""What a run tells about itself: console, metrics.jsonl, TensorBoard, and a plot at the end."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from megatron_nmm.checkpoint.save import SaveReport
from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.stream import Stream
from megatron_nmm.parallel.losses import LossSums
from megatron_nmm.parallel.world import World
from megatron_nmm.train import metrics
from megatron_nmm.train.cadence import due
from megatron_nmm.train.console import Screen, validation_line
from megatron_nmm.train.evaluate import Validation
from megatron_nmm.train.meter import Meter
from megatron_nmm.train.metrics import Record
from megatron_nmm.train.optim import Update
from megatron_nmm.train.plots import loss_plot
from megatron_nmm.train.record import step_record, validation_record
from megatron_nmm.train.tensorboard import Board

PLOT = "loss.png"


class Journal:
    """Rank 0 writes; the other ranks take part where numbers of all ranks are needed."""

    def __init__(self, run: RunConfig, world: World) -> None:
        self._run, self._world = run, world
        self._folder = Path(run.folder)
        self._screen = Screen(run.steps) if world.is_main else None
        self._board: Board | None = None
        self._meter = Meter(run, world)
        self._sums: LossSums | None = None
        self._lost = False
        self._started = 0.0
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if self._screen is not None:
            self._open.enter_context(self._screen)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def say(self, text: str) -> None:
        """A line on the console, from rank 0."""
        if self._screen is not None:
            self._screen.say(text)

    def start(self, step: int) -> None:
        """Begin after ``step`` (0 = from scratch): lines of later steps, which will be taken again, are dropped."""
        self._meter.restart()
        self._started = time.monotonic()
        if self._screen is not None:
            last = metrics.truncate(self._folder / metrics.NAME, step)
            self._started -= last["elapsed_s"] if last else 0.0
            self._screen.start(step)
            if self._run.journal.tensorboard:
                self._board = self._open.enter_context(Board(self._folder / "tensorboard", step))

    def step(
        self, step: int, losses: LossSums, update: Update, batches: Sequence[Batch], data: Stream, *, last: bool = False
    ) -> None:
        """Note training step ``step``; every ``journal.every`` steps, and after the ``last``, write the interval down.

        Losses of a line are those of all steps since the line before. Collective.
        """
        self._sums = losses if self._sums is None else self._sums + losses
        self._meter.add(batches, data.wait_s)
        if not (last or due(self._run.journal.every, step, self._run.steps)):
            return
        reading, sums, self._sums = self._meter.read(), self._sums, None
        if self._screen is not None:
            record = step_record(step, sums, data.source_names, update, reading, data.consumed, self._elapsed())
            self._screen.step(record)
            self._write(record)

    def validation(self, step: int, validation: Validation) -> None:
        """Note the validation after ``step``; its time is not training time."""
        if self._screen is not None:
            record = validation_record(step, validation, self._elapsed())
            self._screen.say(validation_line(record))
            self._write(record)
        self._meter.restart()

    def saved(self, report: SaveReport) -> None:
        """Note a checkpoint; its time is not training time."""
        self.say(f"saved {report.path} ({report.bytes / 1e6:.1f} MB in {report.seconds:.1f} s)")
        self._meter.restart()

    def finish(self) -> None:
        """Draw the plot of the whole run, resumed parts included."""
        if self._screen is None:
            return
        records = metrics.read(self._folder / metrics.NAME)
        if records:
            loss_plot(records, self._folder / PLOT, self._run.name)
            self.say(f"metrics {self._folder / metrics.NAME}, plot {self._folder / PLOT}")

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _write(self, record: Record) -> None:
        """Append to metrics.jsonl and TensorBoard. A full disk costs lines, not the run: saving reports it properly."""
        try:
            metrics.append(self._folder / metrics.NAME, record)
            if self._board is not None:
                self._board.write(record)
        except OSError as error:
            if not self._lost:
                self.say(f"metrics cannot be written ({error.strerror}); training goes on, lines are lost: make room")
            self._lost = True
