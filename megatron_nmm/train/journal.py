"""What a run tells about itself: console, metrics.jsonl, TensorBoard, notes about its data, a plot at the end."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

from megatron_nmm.checkpoint.save import SaveReport
from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.ledger import Phase
from megatron_nmm.data.stream import Stream
from megatron_nmm.parallel.losses import LossSums
from megatron_nmm.parallel.world import World
from megatron_nmm.train import metrics
from megatron_nmm.train.cadence import due
from megatron_nmm.train.casts_plot import casts_plot
from megatron_nmm.train.collapse import alarms
from megatron_nmm.train.console import Screen, alarm_line, intake_line, validation_line
from megatron_nmm.train.data_notes import DataNotes
from megatron_nmm.train.evaluate import Validation
from megatron_nmm.train.meter import Meter
from megatron_nmm.train.metrics import Record
from megatron_nmm.train.optim import Update
from megatron_nmm.train.plots import loss_plot
from megatron_nmm.train.record import (
    alarm_record,
    casts_record,
    intake,
    routing_record,
    step_record,
    telemetry_record,
    validation_record,
)
from megatron_nmm.train.routing_plot import routing_plot
from megatron_nmm.train.telemetry import TelemetryReading
from megatron_nmm.train.telemetry_plot import telemetry_plot
from megatron_nmm.train.tensorboard import Board

PLOT = "loss.png"
MEASURED_PLOTS = {
    "telemetry": ("telemetry.png", telemetry_plot),
    "routing": ("routing.png", routing_plot),
    "casts": ("casts.png", casts_plot),
}
"""Event -> the plot that runs with such records get: its name, and what draws it."""
LOST, KEPT = "lines are lost", "lines are kept in memory"
"""What becomes of lines that a full disk refuses."""


class Journal:
    """Rank 0 writes; the other ranks take part where numbers of all ranks are needed."""

    def __init__(self, run: RunConfig, world: World) -> None:
        self._run, self._world = run, world
        self._folder = Path(run.folder)
        self._screen = Screen(run.steps) if world.is_main else None
        self._board: Board | None = None
        self._meter = Meter(run, world)
        self._notes = DataNotes(run, world)
        self._sums: LossSums | None = None
        self._standing: set[tuple[str, str]] = set()
        self._lost: set[str] = set()
        self.too_many_bad = False
        """Whether the run has to stop because of samples that cannot be decoded; the same on every rank."""
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

    def require_few_bad(self) -> None:
        """Raise DataError, with the samples and the remedy, when ``too_many_bad``."""
        if self.too_many_bad:
            self._notes.quarantine.require_few()

    def start(self, step: int, consumed: int, data: Stream) -> Phase:
        """Begin after ``step`` (0 = from scratch): lines of later steps, which will be taken again, are dropped.

        Returns from where on the mixture of ``data`` holds. Collective.
        """
        self._started = time.monotonic()
        if self._screen is not None:
            last = metrics.truncate(self._folder / metrics.NAME, step)
            self._started -= last["elapsed_s"] if last else 0.0
            self._screen.start(step)
            if self._run.journal.tensorboard:
                self._board = self._open.enter_context(Board(self._folder / "tensorboard", step))
        phase, remark = self._notes.start(step, consumed, data)
        if remark:
            self.say(remark)
        self._meter.restart()
        return phase

    def step(
        self, step: int, losses: LossSums, update: Update, batches: Sequence[Batch], data: Stream, *, saving: bool
    ) -> None:
        """Note training step ``step``; every ``journal.every`` steps, and before ``saving``, write the interval down.

        Losses of a line are those of all steps since the line before. Collective.
        """
        self._sums = losses if self._sums is None else self._sums + losses
        self._meter.add(batches, data.wait_s, data.planned, data.replaced)
        self._notes.met(step, data.bad)
        if saving or due(self._run.journal.every, step, self._run.steps):
            self._interval(step, self._sums, update, data)
            self._sums = None
        if self._screen is not None:
            may_continue = saving or self.too_many_bad
            self._attempt("the ledger", KEPT, lambda: self._notes.write_step(step, data, may_continue=may_continue))

    def _interval(self, step: int, sums: LossSums, update: Update, data: Stream) -> None:
        """Write down the steps since the last line. Collective."""
        reading = self._meter.read()
        self._notes.quarantine.count(reading.samples, reading.replaced)
        if reading.replaced:
            self._settle()
        self.too_many_bad = self._notes.quarantine.excess is not None
        if self._screen is not None:
            read = intake(data.consumed, data.epochs(), self._notes.quarantine)
            record = step_record(step, sums, data.source_names, update, reading, read, self._elapsed())
            self._screen.step(record)
            self._write(record)

    def telemetry(self, step: int, reading: TelemetryReading | None) -> None:
        """Note what was measured in ``step``, if anything was; an alarm sounds on the console when it is new."""
        if self._screen is None or reading is None:
            return
        records = [telemetry_record(step, reading, self._elapsed())]
        if reading.routing is not None:
            records.append(routing_record(step, reading.routing, self._elapsed()))
        if reading.casts is not None:
            records.append(casts_record(step, reading.casts, self._elapsed()))
        for record in records:
            self._screen.telemetry(record)
            self._write(record)
        found = alarms(reading)
        for alarm in found:
            record = alarm_record(step, alarm, self._elapsed())
            self._write(record)
            if (alarm.rule, alarm.subject) not in self._standing:
                self.say(alarm_line(record))
        self._standing = {(alarm.rule, alarm.subject) for alarm in found}

    def _settle(self) -> None:
        """Tell which samples went into quarantine. Collective."""
        for line in self._notes.settle():
            self.say(line)
        if self._screen is not None:
            self._attempt("the quarantine", KEPT, self._notes.write_bad)

    def validation(self, step: int, validation: Validation) -> None:
        """Note the validation after ``step``; its time is not training time. Collective."""
        self._notes.met(step, validation.bad)
        self._settle()
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
        """Draw the plots of the whole run, resumed parts included."""
        if self._screen is None:
            return
        records = metrics.read(self._folder / metrics.NAME)
        if not records:
            return
        loss_plot(records, self._folder / PLOT, self._run.name)
        plots = [self._folder / PLOT]
        for event, (name, draw) in MEASURED_PLOTS.items():
            if any(record["event"] == event for record in records):
                draw(records, self._folder / name, self._run.name)
                plots.append(self._folder / name)
        self.say(intake_line(next(record for record in reversed(records) if record["event"] == "step")))
        if alarming := {record["step"] for record in records if record["event"] == "alarm"}:
            where = " and ".join(str(plot) for plot in plots[1:] if plot.name != MEASURED_PLOTS["casts"][0])
            self.say(f"alarms in {len(alarming)} measured steps, last in step {max(alarming)}: see {where}")
        self.say(f"metrics {self._folder / metrics.NAME}, plots {', '.join(map(str, plots))}")

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _write(self, record: Record) -> None:
        """Append to metrics.jsonl and TensorBoard."""
        self._attempt("metrics", LOST, lambda: metrics.append(self._folder / metrics.NAME, record))
        if self._board is not None:
            self._attempt("TensorBoard events", LOST, partial(self._board.write, record))

    def _attempt(self, what: str, cost: str, write: Callable[[], None]) -> None:
        """Do ``write``. A full disk costs lines, not the run: saving reports it properly."""
        try:
            write()
        except OSError as error:
            if what not in self._lost:
                self.say(f"{what} cannot be written ({error.strerror}); training goes on, {cost}: make room")
            self._lost.add(what)
