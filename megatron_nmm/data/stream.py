"""Delivers batches: which packs a rank reads at which step is worked out, reading and decoding run ahead in threads.

The order is a pure function of (seed, packs consumed): a global batch holds the same packs in the same order for every
data-parallel size, rank r takes rows [r * G / size, (r + 1) * G / size) of it, cut into microbatches in order.
"""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from megatron_nmm.config import RunConfig
from megatron_nmm.config.rules_layout import batch_divides
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.ledger import Phase
from megatron_nmm.data.load import Variation
from megatron_nmm.data.mixture import Mixture, epochs
from megatron_nmm.data.quarantine import BadSample
from megatron_nmm.data.reader import Microbatch, Reader
from megatron_nmm.data.sources import open_sources, open_tokenizer, run_mixture
from megatron_nmm.errors import ConfigError

STEPS_AHEAD = 2
"""Steps whose microbatches are being read while one is trained on."""


class Stream:
    """One rank's sequence of training batches."""

    def __init__(self, run: RunConfig, data_rank: int, data_size: int, gpu: int | None = None) -> None:
        """Open the run's sources; raises ConfigError or DataError, each with its remedy.

        ``gpu``: number of a GPU that may decode images; None = there is none.
        """
        _require_split(run, data_size)
        self._run = run
        tokenizer = open_tokenizer(run)
        self.sources = open_sources(run, run.data.train, tokenizer)
        self.source_names = tuple(source.name for source in self.sources)
        self.consumed = 0
        """Packs handed out so far, over all ranks."""
        self.wait_s = 0.0
        """Seconds the last ``next_step`` waited for data."""
        self.planned = 0
        """Samples the plans put into this rank's rows of the last step."""
        self.replaced = 0
        """Those of them that something else stands in for."""
        self.bad: tuple[BadSample, ...] = ()
        """Every sample of the last step that could not be loaded."""
        self._phase = Phase(0, None)
        self._mixture: Mixture | None = None
        self._first = data_rank * (run.data.global_batch // data_size)
        self._rows = run.data.global_batch // data_size
        variation = Variation(run.data.augment, run.data.noise, run.seed)
        self._reader = Reader(run, dict(enumerate(self.sources)), tokenizer, variation, gpu)
        self.decoder_name = self._reader.decoder_name
        """What decodes the images."""
        self._threads = ThreadPoolExecutor(run.data.workers, "read") if run.data.workers > 0 else None
        self._ahead: deque[list[Future[Microbatch]]] = deque()

    def next_step(self) -> list[Batch]:
        """This rank's microbatches of the next global batch; ConfigError when the sources' limits are reached."""
        start = time.perf_counter()
        self.mixture.require(self.consumed + self._run.data.global_batch)
        if self._threads is None:
            read = [self._read(first) for first in self._firsts(self.consumed)]
        else:
            self._read_ahead(self._threads)
            read = [future.result() for future in self._ahead[0]]
            self._ahead.popleft()
        self.wait_s = time.perf_counter() - start
        self.consumed += self._run.data.global_batch
        if self._threads is not None:
            self._read_ahead(self._threads)
        rows = [row for microbatch in read for row in microbatch.rows]
        self.planned = sum(row.planned for row in rows)
        self.replaced = sum(row.replaced for row in rows)
        self.bad = tuple(sample for row in rows for sample in row.bad)
        return [microbatch.batch for microbatch in read]

    def seek(self, consumed: int, phase: Phase | None = None) -> None:
        """Continue after ``consumed`` packs, whatever was read before.

        ``phase``: from where on the present mixture holds; None = as before, at first from the run's first pack.
        """
        if consumed < 0:
            raise ConfigError(f"cannot continue after {consumed} packs; give a number of packs from 0")
        self._drop_ahead()
        if phase is not None:
            self._phase, self._mixture = phase, None
        self.consumed = consumed

    @property
    def mixture(self) -> Mixture:
        """The order of packs; ConfigError when the sources' limits leave too few for the run.

        It is made at first use: a continued run says only then where its mixture took over.
        """
        if self._mixture is None:
            self._mixture = run_mixture(self._run, self.sources, self._phase.first, self._phase.drawn)
        return self._mixture

    def drawn(self) -> dict[str, tuple[int, float]]:
        """Source name -> (packs drawn, epochs) among the packs consumed."""
        counts = self.mixture.drawn(self.consumed)
        return {
            name: (count, count / source.packs)
            for name, count, source in zip(self.source_names, counts, self.mixture.portions, strict=True)
        }

    def epochs(self) -> dict[str, float]:
        """Source name -> times it has been read so far."""
        return epochs(self.mixture, self.consumed)

    def close(self) -> None:
        """Stop reading ahead."""
        self._drop_ahead()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _firsts(self, consumed: int) -> range:
        """Number of the first pack of each microbatch of this rank in the global batch that starts at ``consumed``."""
        first = consumed + self._first
        return range(first, first + self._rows, self._run.data.microbatch)

    def _read(self, first: int) -> Microbatch:
        """The microbatch of packs ``first`` to ``first + microbatch``."""
        return self._reader.read([self.mixture[number] for number in range(first, first + self._run.data.microbatch)])

    def _read_ahead(self, threads: ThreadPoolExecutor) -> None:
        # What fails past the end of a finite mixture is never asked for: next_step refuses first.
        while len(self._ahead) < STEPS_AHEAD:
            step = self.consumed + len(self._ahead) * self._run.data.global_batch
            self._ahead.append([threads.submit(self._read, first) for first in self._firsts(step)])

    def _drop_ahead(self) -> None:
        for step in self._ahead:
            for future in step:
                future.cancel()
        self._ahead.clear()


def stream(run: RunConfig, data_rank: int, data_size: int, gpu: int | None = None) -> Stream:
    """The training batches of data-parallel rank ``data_rank`` of ``data_size``, from the first pack on."""
    return Stream(run, data_rank, data_size, gpu)


def _require_split(run: RunConfig, data_size: int) -> None:
    """Raise ConfigError unless the global batch splits evenly over ranks and microbatches."""
    for fault in batch_divides(run, data_size * run.parallel.of_copy):
        raise ConfigError(str(fault))
