"""A study as tables: what a dry run expands, and where a sweep stands while it runs."""

import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path

from rich.table import Table

from megatron_nmm.config import RunConfig
from megatron_nmm.scaling.point import Point
from megatron_nmm.scaling.sweep.cost import Cost, cooling, cost, gpu_hours, per_step, sizes
from megatron_nmm.scaling.sweep.expand import Branch, Trunk, short
from megatron_nmm.scaling.sweep.local import State
from megatron_nmm.scaling.sweep.outcome import METRICS, last_step


def expanded(trunks: Sequence[Trunk], peak: float, mfu: float) -> Table:
    """One row a model and mixture, sums by family."""
    columns = ("family", "size", "mixture", "N", "N total", "Nv", "tokens", "rate", "runs", "trunks")
    table = Table(*columns, "FLOPs alone", "FLOPs shared", "GPU hours")
    families = list(dict.fromkeys(trunk.model.family for trunk in trunks))
    for family in families:
        rows = _grouped(trunk for trunk in trunks if trunk.model.family == family)
        for (size, mixture), members in rows.items():
            counted = sizes(members[0].run.model)
            asked = sorted(branch.asked for trunk in members for branch in trunk.branches)
            table.add_row(
                family,
                size,
                mixture,
                short(counted.active),
                short(counted.total),
                short(counted.vision) if counted.vision else "-",
                f"{len(asked)}: {short(asked[0])} to {short(asked[-1])}" if len(asked) > 1 else short(asked[0]),
                f"{members[0].run.optim.learning_rate:.3g}",
                *_spent(cost(members), peak, mfu),
            )
        table.add_section()
        if len(families) > 1:
            table.add_row(
                family, "all", *[""] * 6, *_spent(cost(t for t in trunks if t.model.family == family), peak, mfu)
            )
            table.add_section()
    table.add_row("all", *[""] * 7, *_spent(cost(trunks), peak, mfu), style="bold")
    return table


def totals(trunks: Sequence[Trunk], gpu: str, peak: float, mfu: float) -> str:
    """The study in a line."""
    total = cost(trunks)
    hours = gpu_hours(total.shared, peak, mfu)
    return (
        f"{total.runs:,} runs, {total.trunks:,} trunks: {total.alone:.3g} FLOPs one by one, {total.shared:.3g} with "
        f"shared trunks, which saves {total.saved:.0%}; {_hours(hours)} GPU hours on {gpu} at an MFU of {mfu:.0%} of "
        f"{peak / 1e12:,.0f} TFLOP/s, FLOPs by P1's 6 N D and 6 (Nv Dv + Nt D)"
    )


class Screen:
    """Where a sweep stands, from what its runs write."""

    def __init__(self, trunks: Sequence[Trunk], points: Sequence[Point]) -> None:
        self._trunks = trunks
        self._points = {point.run: point for point in points}
        self._start = time.monotonic()
        self._at_start: float | None = None

    def add(self, state: State, points: Iterable[Point]) -> None:
        """Points that are new; call it from the start on, also without any, for what is left then is the ETA's base."""
        self._points |= {point.run: point for point in points}
        if self._at_start is None:
            self._at_start = _left_of(state)

    def line(self, state: State) -> str:
        """Points, what runs, and when all is done."""
        runs = [branch.run.name for trunk in self._trunks for branch in trunk.branches]
        done = sum(name in self._points for name in runs)
        failed = f", {len(state.failures)} failed" if state.failures else ""
        return f"{done} of {len(runs)} points{failed}; eta {self._eta(state)}"

    def table(self, state: State) -> Table:
        """One row a family and size."""
        table = Table("family", "size", "N", "points", "now", "newest loss", title=self.line(state))
        failed = {failure.run for failure in state.failures}
        groups: dict[tuple[str, str], list[Trunk]] = {}
        for trunk in self._trunks:
            groups.setdefault((trunk.model.family, trunk.model.size), []).append(trunk)
        for (family, size), members in groups.items():
            runs = [branch.run.name for trunk in members for branch in trunk.branches]
            found = [self._points[name] for name in runs if name in self._points]
            bad = sum(name in failed for name in runs)
            counted = sizes(members[0].run.model)
            table.add_row(
                family,
                size,
                short(counted.active),
                f"{len(found)} of {len(runs)}{f', {bad} failed' if bad else ''}",
                ", ".join(_now(one.job.runs) for one in state.active if one.job.trunk in members),
                f"{found[-1].loss():.3f} at {short(found[-1].tokens)}" if found else "",
            )
        return table

    def _eta(self, state: State) -> str:
        """From the FLOPs still to do and their rate so far."""
        left = _left_of(state)
        done, seconds = (self._at_start or left) - left, time.monotonic() - self._start
        return str(timedelta(seconds=round(seconds * left / done))) if done > 0 else "?"


def _left_of(state: State) -> float:
    jobs = [*state.waiting, *(one.job for one in state.active)]
    return sum(_left(job.trunk, job.branches, job.needs_trunk) for job in jobs)


def _left(trunk: Trunk, branches: Iterable[Branch], needs_trunk: bool) -> float:
    """FLOPs that a job still takes."""
    steps = max(0, trunk.run.steps - _reached(trunk.run)) if needs_trunk else 0
    steps += sum(max(0, cooling(b) - max(0, _reached(b.run) - b.start)) for b in branches)
    return steps * per_step(trunk)


def _now(runs: Sequence[RunConfig]) -> str:
    """The run of a job that is under way."""
    for run in runs:
        if (step := _reached(run)) < run.steps:
            return f"{run.name.rpartition('-')[2] if 'trunk' not in run.name else 'trunk'} {step}/{run.steps}"
    return "ends"


def _reached(run: RunConfig) -> int:
    return last_step(Path(run.folder) / METRICS)


def _grouped(trunks: Iterable[Trunk]) -> dict[tuple[str, str], list[Trunk]]:
    groups: dict[tuple[str, str], list[Trunk]] = {}
    for trunk in trunks:
        groups.setdefault((trunk.model.size, trunk.mixture.label), []).append(trunk)
    return groups


def _spent(total: Cost, peak: float, mfu: float) -> tuple[str, ...]:
    hours = _hours(gpu_hours(total.shared, peak, mfu))
    return f"{total.runs:,}", f"{total.trunks:,}", f"{total.alone:.3g}", f"{total.shared:.3g}", hours


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
