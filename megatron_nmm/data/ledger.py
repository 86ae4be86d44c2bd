"""The ledger of a run, ``<run>/ledger.jsonl``: which packs fed each step, and the data they are counted in.

A line ``{"step", "first", "packs"}`` per step says which packs of the run it took; at a checkpoint "drawn" adds how
many packs of each source had been taken by then. A line with "sources" stands before the first step and wherever the
data configuration changed. The order of data is a function of these, so a step's samples can be told at any time.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_nmm.config import RunConfig
from megatron_nmm.data.sources import Source
from megatron_nmm.errors import DataError
from megatron_nmm.files import step_lines
from megatron_nmm.files.step_lines import Record

NAME = "ledger.jsonl"
HASHED_BYTES = 1 << 20


@dataclass(frozen=True)
class Phase:
    """From where on a mixture holds."""

    first: int
    """Pack of the run, counted from 0, that its order begins with."""
    drawn: tuple[int, ...] | None
    """Packs taken from each of its sources before; None = none."""


@dataclass(frozen=True)
class FedSource:
    """One source as it was when it fed the run."""

    name: str
    corpus: str
    fingerprint: str
    plan: str
    plan_sha256: str
    packs: int
    weight: float
    max_epochs: float | None


@dataclass(frozen=True)
class DataState:
    """Everything the order of samples depends on."""

    seed: int
    sequence_length: int
    share_of: str
    temperature: float
    sources: tuple[FedSource, ...]


def data_state(run: RunConfig, sources: Sequence[Source]) -> DataState:
    """The present state of a run's opened ``sources``; reads the pack plans once to fingerprint them."""
    fed = [
        FedSource(
            name=source.name,
            corpus=config.corpus,
            fingerprint=source.corpus.fingerprint,
            plan=config.plan,
            plan_sha256=file_sha256(Path(config.plan_path(run.data.sequence_length)) / "plan.parquet"),
            packs=len(source.plan),
            weight=config.weight,
            max_epochs=config.max_epochs,
        )
        for config, source in zip(run.data.train, sources, strict=True)
    ]
    data = run.data
    return DataState(run.seed, data.sequence_length, data.share_of, data.temperature, tuple(fed))


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes; raises DataError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(HASHED_BYTES):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); write it again with tools/pack.py") from error
    return digest.hexdigest()


class Ledger:
    """The writer; one process of a run has it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._unwritten: list[Record] = []

    def resume(self, step: int, consumed: int, state: DataState) -> tuple[Phase, str | None]:
        """Continue after ``step``, later lines dropped: the phase the run is in now, and a remark when data changed.

        Raises OSError when the ledger cannot be written.
        """
        step_lines.truncate(self._path, step)
        entries = read(self._path)
        last = entries.datas[-1] if entries.datas else None
        if last is not None and _order(last.state) == _order(state):
            phase, remark = last.phase, None
        elif last is None:
            phase, remark = Phase(0, None), None
            if step:
                remark = f"{self._path} does not say what fed the steps so far; taking the data as unchanged"
        else:
            phase = Phase(consumed, entries.carried_over(step, state))
            remark = f"the data changed after step {step}: {'; '.join(differences(last.state, state))}"
        if last is None or last.state != state or last.phase != phase:
            step_lines.append(self._path, _data_record(step + 1, phase, state))
            step_lines.sync(self._path)
        return phase, remark

    def step(self, step: int, first: int, packs: int, drawn: Sequence[int] | None = None) -> None:
        """Note that ``step`` took ``packs`` packs from ``first`` on; ``drawn`` is given where a run may continue.

        Raises OSError when the line cannot be written; it then goes with the next one.
        """
        record: Record = {"step": step, "first": first, "packs": packs}
        if drawn is not None:
            record["drawn"] = list(drawn)
        self._unwritten.append(record)
        step_lines.append(self._path, *self._unwritten)
        self._unwritten = []
        if drawn is not None:
            step_lines.sync(self._path)


@dataclass(frozen=True)
class DataEntry:
    """A line that states the data configuration."""

    step: int
    """First step it holds for."""
    phase: Phase
    state: DataState


@dataclass(frozen=True)
class Entries:
    """A ledger as read."""

    path: Path
    datas: tuple[DataEntry, ...]
    steps: tuple[Record, ...]

    def data_of(self, step: int) -> DataEntry:
        """The data configuration in force at ``step``."""
        held = [data for data in self.datas if data.step <= step]
        if not held:
            raise DataError(f"{self.path} states no data configuration before step {step}; restore it from a copy")
        return held[-1]

    def packs_of(self, step: int) -> range:
        """Packs of the run that fed ``step``."""
        for record in self.steps:
            if record["step"] == step:
                return range(record["first"], record["first"] + record["packs"])
        known = f"steps {self.steps[0]['step']} to {self.steps[-1]['step']}" if self.steps else "no step yet"
        raise DataError(f"{self.path} does not hold step {step}; it holds {known}")

    def carried_over(self, step: int, state: DataState) -> tuple[int, ...]:
        """Packs drawn up to ``step`` of each source of ``state``, also of one that was away in between.

        0 for a source that is new, or packed or tokenised anew.
        """
        ends = [*(data.step - 1 for data in self.datas[1:]), step]
        counts = {
            (source.fingerprint, source.plan_sha256): count
            for data, end in zip(self.datas, ends, strict=True)
            for source, count in zip(data.state.sources, self.drawn_after(end), strict=True)
        }
        return tuple(counts.get((s.fingerprint, s.plan_sha256), 0) for s in state.sources)

    def drawn_after(self, step: int) -> tuple[int, ...]:
        """Packs of each source drawn up to the checkpoint of ``step``."""
        for record in reversed(self.steps):
            if record["step"] == step and "drawn" in record:
                return tuple(record["drawn"])
        raise DataError(
            f"{self.path} does not say what step {step} had drawn, so a changed mixture cannot continue from there; "
            "restore the ledger from a copy, or continue with the data configuration of before"
        )


def read(path: Path) -> Entries:
    """Everything ``path`` says; raises DataError when there is no sense in it. No file reads as nothing."""
    datas: list[DataEntry] = []
    steps: list[Record] = []
    for record in step_lines.read(path):
        if "sources" in record:
            datas.append(_data_entry(path, record))
        else:
            steps.append(record)
    return Entries(path, tuple(datas), tuple(steps))


def differences(before: DataState, now: DataState) -> list[str]:
    """What changed from one state to another, in words."""
    found = []
    for name in ("seed", "sequence_length", "share_of", "temperature"):
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            found.append(f"{name} {old} -> {new}")
    olds, news = ({source.corpus: source for source in state.sources} for state in (before, now))
    found += [f"{corpus} left" for corpus in olds if corpus not in news]
    found += [f"{corpus} joined with weight {news[corpus].weight:g}" for corpus in news if corpus not in olds]
    for corpus in olds.keys() & news.keys():
        old, new = asdict(olds[corpus]), asdict(news[corpus])
        found += [f"{corpus}: {key} {_short(old[key])} -> {_short(new[key])}" for key in old if old[key] != new[key]]
    return found or ["the order of sources"]


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)


def _order(state: DataState) -> Any:
    """What of ``state`` decides the order of samples; folders may move."""
    sources = [(s.fingerprint, s.plan_sha256, s.packs, s.weight, s.max_epochs) for s in state.sources]
    return state.seed, state.sequence_length, state.share_of, state.temperature, sources


def _data_record(step: int, phase: Phase, state: DataState) -> Record:
    return {"step": step, "first": phase.first, "drawn": phase.drawn and list(phase.drawn), **asdict(state)}


def _data_entry(path: Path, record: Record) -> DataEntry:
    try:
        sources = tuple(FedSource(**source) for source in record["sources"])
        state = DataState(record["seed"], record["sequence_length"], record["share_of"], record["temperature"], sources)
        return DataEntry(record["step"], Phase(record["first"], record["drawn"] and tuple(record["drawn"])), state)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} has a damaged line for step {record['step']} ({error}); restore it from a copy"
        ) from error
