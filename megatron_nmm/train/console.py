"""What a run says on the console: one line a step above a progress bar, or now and then a plain line in a log file."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from statistics import fmean
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from megatron_nmm.train.metrics import Record

PLAIN_INTERVAL_S = 5.0
"""Seconds between lines where nobody watches a bar: enough to see life, few enough to read afterwards."""

UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class Screen:
    """Rank 0's console during a run of ``steps`` steps."""

    def __init__(self, steps: int, console: Console | None = None) -> None:
        self._steps = steps
        self._console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            refresh_per_second=2,  # drawing takes time from the step
        )
        self._shown: dict[str, float] = {}
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def start(self, step: int) -> None:
        """Steps up to ``step`` were taken before."""
        self._first = (step, time.monotonic())
        self._task = self._progress.add_task("training", total=self._steps, completed=step)

    def say(self, text: str) -> None:
        """A line of its own, always shown."""
        self._console.print(text, markup=False)

    def step(self, record: Record) -> None:
        """Show a step's line and move the bar."""
        line = step_line(record, self._steps)
        if self._console.is_terminal:
            self._progress.update(self._task, completed=record["step"])
            self.say(line)
        elif self._due(record):
            self.say(f"{line}  eta {self._eta(record['step'], time.monotonic())}")

    def telemetry(self, record: Record) -> None:
        """Show what was measured in a step, of either event in MEASURED."""
        if self._console.is_terminal or self._due(record):
            self.say(MEASURED[record["event"]](record))

    def _due(self, record: Record) -> bool:
        """Whether a log gets a line again for the event of ``record``; if so, it counts as shown."""
        now, event = time.monotonic(), record["event"]
        due = record["step"] == self._steps or now - self._shown.get(event, -math.inf) >= PLAIN_INTERVAL_S
        if due:
            self._shown[event] = now
        return due

    def _eta(self, step: int, now: float) -> str:
        assert self._first is not None, "Screen.start comes before Screen.step"
        first, started = self._first
        per_step = (now - started) / max(1, step - first)
        return str(timedelta(seconds=round(per_step * (self._steps - step))))


def step_line(record: Record, steps: int) -> str:
    """A step's record in one line."""
    parts = [
        f"step {record['step']:>{len(str(steps))}}/{steps}",
        f"loss {number(record['loss'])} ({_losses(record['kinds'])})",
        f"lr {record['learning_rate']:.2e}",
        f"norm {number(record['grad_norm'])}",
        f"{short(record['tokens_per_second'])} tok/s",
        f"{short(record['image_tokens_per_second'])} img tok/s",
        f"{short(record['flops_per_second'])} FLOP/s",
        f"memory {short(record['memory_bytes'])}",
        f"data wait {100 * record['data_wait_share']:.1f} %",
        epochs_text(record["epochs"]),
    ]
    if record["replaced_samples"]:
        parts.append(f"replaced {short(record['replaced_samples'])} of {short(record['samples'])} samples")
    return "  ".join(parts if record["finite"] else [*parts, "gradients not finite: step skipped"])


def epochs_text(epochs: Mapping[str, float]) -> str:
    """How often the sources were read: the least and the most often read one."""
    least, most = (f"{times:.3g}" for times in (min(epochs.values()), max(epochs.values())))
    return f"epoch {least}" if least == most else f"epoch {least}-{most}"


def intake_line(record: Record) -> str:
    """All that a run has read, in one line."""
    sources = ", ".join(f"{name} {times:.3g}" for name, times in record["epochs"].items())
    bad = f"; {record['replaced_samples']:,} replaced, {record['quarantined']:,} in quarantine"
    return f"read {record['samples']:,} samples, epochs: {sources}{bad if record['quarantined'] else ''}"


def validation_line(record: Record) -> str:
    """A validation's record in one line."""
    parts = f"loss {number(record['loss'])}, the mean of {_losses(record['sources'])}"
    # Sources of one kind each already say what the kinds would say.
    kinds = "" if set(record["sources"]) == set(record["kinds"]) else f"; by kind {_losses(record['kinds'])}"
    return f"validation after step {record['step']}: {parts}{kinds}  {record['seconds']:.1f} s"


def telemetry_line(record: Record) -> str:
    """A telemetry record in one line: the visual side against the others."""
    sides = [(name, record[name]) for name in ("visual", "others") if record[name] is not None]
    gradients = ", ".join(f"{name} {_brief(side['gradient'])}" for name, side in sides)
    updates = ", ".join(f"{name} {_brief(side['update_share'])}" for name, side in sides)
    ratios = [ratio for ratio in record["features"]["ratio"] if ratio is not None]
    features = f"{_brief(min(ratios))} to {_brief(max(ratios))}" if ratios else "- (no image in this step)"
    return (
        f"telemetry of step {record['step']}: gradients {gradients}; updates / weights {updates}; features visual / "
        f"text {features}"
    )


def routing_line(record: Record) -> str:
    """A routing record in one line: means over the sparse layers, the worst peak, all dead experts."""
    scores = record["specialization"]
    ends = f" (first layer {_brief(scores[0])}, last {_brief(scores[-1])})" if len(scores) > 1 else ""
    return (
        f"routing of step {record['step']}: load entropy {_brief(_mean(record['load_entropy']))}, most loaded "
        f"{_brief(max((peak for peak in record['peak'] if peak is not None), default=None))} x the mean, dead "
        f"{sum(map(len, record['dead']))}, specialization {_brief(_mean(scores))}{ends}, balance loss "
        f"{number(_mean(record['balance']))}"
    )


def casts_line(record: Record) -> str:
    """A record of casts in one line: for each operand the product that loses most."""
    worst = []
    for loss in ("underflow", "overflow"):
        for operand, shares in record[loss].items():
            share, product = max(zip(shares, record["products"], strict=True))
            if share:
                worst.append(f"{operand} {loss} {100 * share:.2g} % ({product})")
    return f"casts of step {record['step']}: {', '.join(worst) or 'nothing lost'}"


MEASURED = {"telemetry": telemetry_line, "routing": routing_line, "casts": casts_line}
"""What says a measurement in one line, by its event."""


def alarm_line(record: Record) -> str:
    """An alarm's record in one line."""
    return f"ALARM in step {record['step']}: {record['text']}"


def number(value: float | None) -> str:
    """Four digits; "-" for what has no value."""
    return "-" if value is None else f"{value:.4f}"


def short(value: float) -> str:
    """``12345`` as ``12.3k``."""
    for size, name in UNITS:
        if value >= size:
            return f"{value / size:.3g}{name}"
    return f"{value:.3g}"


def _brief(value: float | None) -> str:
    """Two digits; "-" for what has no value."""
    return "-" if value is None else f"{value:.2g}"


def _mean(values: Sequence[float | None]) -> float | None:
    """Of those that have a value."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _losses(parts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {number(part['loss'])}" for name, part in parts.items())
