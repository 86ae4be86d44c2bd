"""What fed a step of a run, and which steps a sample fed: worked out again from ledger, pack plans and quarantine.

Sources are compared with what the ledger says of them first: a corpus or plan that changed since would tell a tale.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from megatron_nmm.config import RunConfig, SourceConfig
from megatron_nmm.config.io import load
from megatron_nmm.data import ledger, quarantine
from megatron_nmm.data.corpus import Corpus, Sample
from megatron_nmm.data.ledger import DataEntry, FedSource, file_sha256
from megatron_nmm.data.mixture import Mixture
from megatron_nmm.data.plan import Plan
from megatron_nmm.data.quarantine import SEARCH, Key, stand_ins
from megatron_nmm.data.sources import Source, run_mixture
from megatron_nmm.data.tables import read_table
from megatron_nmm.errors import DataError
from megatron_nmm.files import step_lines

Tell = Callable[[int, int], None]
"""Takes (packs looked at, packs in all)."""
TELL_EVERY = 10_000


@dataclass(frozen=True)
class Fed:
    """One sample as it stood in a packed row."""

    step: int
    pack: int
    """Number of the packed row in the run, counted from 0."""
    epoch: int
    """How often its source had been read before."""
    source: Source
    number: int
    """Place of the sample in its corpus."""
    sample: Sample
    stands_for: str = ""
    """Id of the bad sample it stood in for."""


class History:
    """The data of one run folder."""

    def __init__(self, folder: Path) -> None:
        """Read the notes of the run in ``folder``; DataError when there are none."""
        self.folder = folder
        if not (folder / ledger.NAME).is_file():
            raise DataError(f"{folder / ledger.NAME} does not exist; give the folder of a run that has taken a step")
        self.run: RunConfig = load(folder / "config.json")
        self.entries = ledger.read(folder / ledger.NAME)
        self._bad: dict[Key, int] = {}
        for record in step_lines.read(folder / quarantine.NAME):
            self._bad.setdefault(quarantine.from_record(record).key, record["step"])
        self._opened: dict[int, _Opened] = {}

    def step(self, step: int) -> list[Fed]:
        """Every sample that fed ``step``, in the order of rows; DataError when it cannot be told any more."""
        packs = self.entries.packs_of(step)
        opened = self._open(self.entries.data_of(step))
        return [fed for pack in packs for fed in self._row(opened, step, pack)]

    def reads(self, sample_id: str, tell: Tell) -> Iterator[Fed]:
        """Every time the sample with this id was read, step by step; DataError when no source of the run has it."""
        found = False
        done, total = 0, sum(record["packs"] for record in self.entries.steps)
        for record in self.entries.steps:
            step = record["step"]
            opened = self._open(self.entries.data_of(step))
            wanted = opened.packs_around(sample_id, {number for _, number in self._bad})
            found = found or any(len(packs) for packs in wanted)
            for pack in range(record["first"], record["first"] + record["packs"]):
                source, _ = opened.mixture.turns[pack]
                if len(wanted[source]) and opened.mixture[pack].pack in wanted[source]:
                    yield from (fed for fed in self._row(opened, step, pack) if fed.sample.id == sample_id)
            if (done + record["packs"]) // TELL_EVERY > done // TELL_EVERY:
                tell(done + record["packs"], total)
            done += record["packs"]
        if not found:
            raise DataError(f"no source of {self.folder} packs a sample {sample_id!r}; ids stand in samples.parquet")

    def _row(self, opened: "_Opened", step: int, pack: int) -> Iterator[Fed]:
        """The samples of one packed row, with what stood in for bad ones."""
        place = opened.mixture[pack]
        source = opened.source(place.source)

        def usable(number: int) -> int | None:
            return None if self._bad.get((source.corpus.fingerprint, number), step + 1) <= step else number

        for planned in source.plan.samples(place.pack):
            good = usable(planned) is not None
            stands_for = "" if good else source.corpus.sample(planned).id
            for number in [planned] if good else stand_ins(source.corpus, planned, usable):
                yield Fed(step, pack, place.epoch, source, number, source.corpus.sample(number), stands_for)

    def _open(self, entry: DataEntry) -> "_Opened":
        if entry.step not in self._opened:
            self._opened[entry.step] = _Opened(self.run, entry)
        return self._opened[entry.step]


class _Opened:
    """The sources of one data configuration; only those that are looked at must be as they were."""

    def __init__(self, run: RunConfig, entry: DataEntry) -> None:
        state = entry.state
        configs = tuple(SourceConfig(s.corpus, s.plan, s.weight, s.max_epochs) for s in state.sources)
        data = replace(
            run.data,
            train=configs,
            sequence_length=state.sequence_length,
            share_of=state.share_of,  # type: ignore[arg-type]  # written from a checked configuration
            temperature=state.temperature,
        )
        # How many steps the run has in mind plays no part in the order.
        self._run = replace(run, seed=state.seed, steps=0, data=data)
        self._entry = entry
        self._sources = [self._same(fed, config) for fed, config in zip(state.sources, configs, strict=True)]
        self._wanted: dict[str, list[set[int]]] = {}

    @cached_property
    def mixture(self) -> Mixture:
        """The order of packs."""
        phase = self._entry.phase
        return run_mixture(self._run, self._sources, phase.first, phase.drawn)

    def source(self, number: int) -> Source:
        """One source."""
        return self._sources[number]

    def packs_around(self, sample_id: str, bad: set[int]) -> list[set[int]]:
        """Per source, the packs of its plan in which the sample may have been read, as itself or for one of ``bad``."""
        if sample_id not in self._wanted:
            self._wanted[sample_id] = [self._packs(number, sample_id, bad) for number in range(len(self._sources))]
        return self._wanted[sample_id]

    def _packs(self, index: int, sample_id: str, bad: set[int]) -> set[int]:
        source, config = self._sources[index], self._run.data.train[index]
        shards = [source.corpus.folder / shard["folder"] for shard in source.corpus.info["shards"]]
        ids = [read_table(shard / "samples.parquet", ["id"]).column("id") for shard in shards]
        starts = np.cumsum([0, *map(len, ids)])
        own = {
            int(start + row)
            for start, column in zip(starts, ids, strict=False)
            for row in np.flatnonzero(pc.equal(column, sample_id).to_numpy())
        }
        size = len(source.corpus)
        near = {number for number in bad for mine in own if 0 < (mine - number) % size <= SEARCH}
        folder = Path(config.plan_path(self._run.data.sequence_length))
        lists = read_table(folder / "plan.parquet", ["samples"]).column("samples").combine_chunks()
        places = np.flatnonzero(np.isin(lists.values.to_numpy(), list(own | near)))
        return set((np.searchsorted(lists.offsets.to_numpy(), places, side="right") - 1).tolist())

    def _same(self, fed: FedSource, config: SourceConfig) -> Source:
        """The source ``fed``, opened; DataError when its corpus or plan is not what it was."""
        corpus = Corpus(fed.corpus)
        length = self._entry.state.sequence_length
        plan_file = Path(config.plan_path(length)) / "plan.parquet"
        for what, was, now in (
            (f"corpus {fed.corpus}", fed.fingerprint, corpus.fingerprint),
            (f"pack plan {plan_file.parent}", fed.plan_sha256, file_sha256(plan_file)),
        ):
            if was != now:
                raise DataError(
                    f"{what} has changed since it fed the steps from {self._entry.step} on (fingerprint {was[:12]}, "
                    f"now {now[:12]}), so their samples cannot be told; restore it from a copy, or make it again with "
                    "the same inputs and settings"
                )
        return Source(fed.name, corpus, Plan(plan_file.parent, corpus.fingerprint, length))
