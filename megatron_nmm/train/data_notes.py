"""What a run notes about its data: the ledger of what fed each step, and the samples that went into quarantine.

Rank 0 writes; every rank holds the same counts, so that all of them stop alike when too many samples are bad. What a
full disk refuses is kept and written with the next line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_nmm.checkpoint.agree import everywhere, on_main
from megatron_nmm.config import RunConfig
from megatron_nmm.data import quarantine
from megatron_nmm.data.ledger import Ledger, Phase, data_state
from megatron_nmm.data.quarantine import BadSample, Quarantine
from megatron_nmm.data.stream import Stream
from megatron_nmm.files import step_lines
from megatron_nmm.files.step_lines import Record
from megatron_nmm.parallel.world import World
from megatron_nmm.train import metrics

SHOWN = 3
"""Newly found bad samples named on the console at a time."""


@dataclass(frozen=True)
class _Past:
    """What a run folder says about the steps taken so far."""

    phase: Phase
    remark: str | None
    """What the user should know about it."""
    bad: tuple[BadSample, ...]
    read: int
    replaced: int


class DataNotes:
    """One rank's side of the notes; only rank 0's reach the disk."""

    def __init__(self, run: RunConfig, world: World) -> None:
        self._run, self._world = run, world
        self._folder = Path(run.folder)
        self._ledger = Ledger(self._folder)
        self.quarantine = Quarantine(run.data.max_bad, run.data.max_bad_share)
        self._met: list[tuple[int, BadSample]] = []
        """(step, sample) that this rank met and did not report yet."""
        self._unwritten: list[Record] = []

    def start(self, step: int, consumed: int, data: Stream) -> tuple[Phase, str | None]:
        """Continue after ``step``: from where on the present mixture holds, and a remark for the user. Collective.

        Raises DataError when more samples are in quarantine than the run puts up with now.
        """
        past: _Past = on_main(self._world, "reading the run's ledger", lambda: self._past(step, consumed, data))
        self.quarantine.add(past.bad)
        self.quarantine.count(past.read, past.replaced)
        self.quarantine.require_few()
        return past.phase, past.remark

    def met(self, step: int, samples: Sequence[BadSample]) -> None:
        """Note samples of this rank's rows that could not be loaded."""
        self._met += [(step, sample) for sample in samples]

    def settle(self) -> list[str]:
        """Bring together what all ranks met; one line for the console per sample not known before. Collective."""
        met, self._met = self._met, []
        gathered = everywhere(self._world, "gathering bad samples", lambda: met)
        # Tensor and pipeline ranks read the same rows, and any layout has to write the same lines.
        ordered = sorted((pair for part in gathered for pair in part), key=lambda pair: (pair[0], pair[1].key))
        new = {sample.key: step for step, sample in reversed(ordered)}
        added = self.quarantine.add(sample for _, sample in ordered)
        if self._world.is_main:
            self._unwritten += [quarantine.to_record(sample, new[sample.key]) for sample in added]
        lines = [f"quarantined {quarantine.describe(sample)}" for sample in added[:SHOWN]]
        if len(added) > SHOWN:
            lines.append(f"... and {len(added) - SHOWN:,} more, see {self._folder / quarantine.NAME}")
        return lines

    def write_step(self, step: int, data: Stream, *, may_continue: bool) -> None:
        """Write down what ``step`` took, from rank 0. Raises OSError.

        may_continue: a checkpoint follows, from which the run may go on with another mixture.
        """
        packs = self._run.data.global_batch
        drawn = data.mixture.drawn(data.consumed) if may_continue else None
        self._ledger.step(step, data.consumed - packs, packs, drawn)

    def write_bad(self) -> None:
        """Write down what is new in quarantine, from rank 0. Raises OSError."""
        if self._unwritten:
            path = self._folder / quarantine.NAME
            step_lines.append(path, *self._unwritten)
            self._unwritten = []
            step_lines.sync(path)

    def _past(self, step: int, consumed: int, data: Stream) -> _Past:
        """Rank 0's files, with what stands after ``step`` dropped."""
        phase, remark = self._ledger.resume(step, consumed, data_state(self._run, data.sources))
        path = self._folder / quarantine.NAME
        step_lines.truncate(path, step)
        bad = tuple(quarantine.from_record(record) for record in step_lines.read(path))
        lines = [record for record in metrics.read(self._folder / metrics.NAME) if "samples" in record]
        last = lines[-1] if lines else {"samples": 0, "replaced_samples": 0}
        return _Past(phase, remark, bad, last["samples"], last["replaced_samples"])
