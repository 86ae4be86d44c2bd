"""Delivers batches: which packs a rank reads at which step is worked out, reading and decoding run ahead in threads.

The order is a pure function of (seed, packs consumed): a global batch holds the same packs in the same order for every
data-parallel size, rank r takes rows [r * G / size, (r + 1) * G / size) of it, cut into microbatches in order.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from megatron_nmm.config import RunConfig, SourceConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.cache import PixelCache
from megatron_nmm.data.collate import Row, collate
from megatron_nmm.data.images import PillowDecoder
from megatron_nmm.data.load import PLAIN, Loader, Variation, run_rule
from megatron_nmm.data.mixture import Mixture, Place
from megatron_nmm.data.sources import Source, open_sources, open_tokenizer
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import ConfigError

CACHE_BYTES = 128 << 20
"""Decoded images kept in memory by one process."""
CACHED_IMAGE = 1 << 20
"""Largest decoded image that is kept."""
STEPS_AHEAD = 2
"""Steps whose microbatches are being read while one is trained on."""


class Reader:
    """Turns places in the mixture into batches; holds no position."""

    def __init__(
        self, run: RunConfig, sources: Mapping[int, Source], tokenizer: Tokenizer, variation: Variation
    ) -> None:
        """``sources``: by the index that ``Batch.source`` carries."""
        self._run = run
        self._sources = sources
        self._tokenizer = tokenizer
        self._loader = Loader(run_rule(run), PillowDecoder(), PixelCache(CACHE_BYTES, CACHED_IMAGE), variation)

    def row(self, place: Place) -> Row:
        """The samples of one pack."""
        source = self._sources[place.source]
        numbers = source.plan.samples(place.pack)
        return [self._loader.load(source.corpus, place.source, number, place.epoch) for number in numbers]

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Packed rows of these samples."""
        return collate(
            rows,
            sequence_length=self._run.data.sequence_length,
            image=self._tokenizer.image,
            pad=self._tokenizer.pad,
            patch_values=self._run.model.vision.patch_values,
        )


class Stream:
    """One rank's endless sequence of training batches."""

    def __init__(self, run: RunConfig, data_rank: int, data_size: int) -> None:
        """Open the run's sources; raises ConfigError or DataError, each with its remedy."""
        _require_split(run, data_size)
        tokenizer = open_tokenizer(run)
        sources = open_sources(run, run.data.train, tokenizer)
        self.source_names = tuple(source.name for source in sources)
        self.consumed = 0
        """Packs handed out so far, over all ranks."""
        self.wait_s = 0.0
        """Seconds the last ``next_step`` waited for data."""
        self._global_batch = run.data.global_batch
        self._microbatch = run.data.microbatch
        self._first = data_rank * (run.data.global_batch // data_size)
        self._rows = run.data.global_batch // data_size
        self._mixture = Mixture([len(s.plan) for s in sources], [c.weight for c in run.data.train], run.seed)
        variation = Variation(run.data.augment, run.data.noise, run.seed)
        self._reader = Reader(run, dict(enumerate(sources)), tokenizer, variation)
        self._threads = ThreadPoolExecutor(run.data.workers, "read") if run.data.workers > 0 else None
        self._ahead: deque[list[Future[Batch]]] = deque()

    def next_step(self) -> list[Batch]:
        """This rank's microbatches of the next global batch."""
        start = time.perf_counter()
        if self._threads is None:
            batches = [self._read(first) for first in self._firsts(self.consumed)]
        else:
            self._read_ahead(self._threads)
            batches = [future.result() for future in self._ahead[0]]
            self._ahead.popleft()
        self.wait_s = time.perf_counter() - start
        self.consumed += self._global_batch
        if self._threads is not None:
            self._read_ahead(self._threads)
        return batches

    def seek(self, consumed: int) -> None:
        """Continue after ``consumed`` packs, whatever was read before."""
        if consumed < 0:
            raise ConfigError(f"cannot continue after {consumed} packs; give a number of packs from 0")
        self._drop_ahead()
        self.consumed = consumed

    def drawn(self) -> dict[str, tuple[int, float]]:
        """Source name -> (packs drawn, epochs) among the packs consumed."""
        counts = self._mixture.drawn(self.consumed)
        sizes = self._mixture.sizes
        return {name: (count, count / size) for name, count, size in zip(self.source_names, counts, sizes, strict=True)}

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
        return range(first, first + self._rows, self._microbatch)

    def _read(self, first: int) -> Batch:
        """The microbatch of packs ``first`` to ``first + microbatch``."""
        places = [self._mixture[number] for number in range(first, first + self._microbatch)]
        return self._reader.batch([self._reader.row(place) for place in places])

    def _read_ahead(self, threads: ThreadPoolExecutor) -> None:
        while len(self._ahead) < STEPS_AHEAD:
            step = self.consumed + len(self._ahead) * self._global_batch
            self._ahead.append([threads.submit(self._read, first) for first in self._firsts(step)])

    def _drop_ahead(self) -> None:
        for step in self._ahead:
            for future in step:
                future.cancel()
        self._ahead.clear()


def stream(run: RunConfig, data_rank: int, data_size: int) -> Stream:
    """The training batches of data-parallel rank ``data_rank`` of ``data_size``, from the first pack on."""
    return Stream(run, data_rank, data_size)


def held_out(run: RunConfig, source: SourceConfig, source_index: int, data_rank: int, data_size: int) -> list[Batch]:
    """Validation batches of one source: its first ``run.evaluate.packs`` packs, the same ones every time.

    Images are neither cropped at random nor noisy. Every rank gets the same number of batches of ``data.microbatch``
    rows; what is missing at the end is filled with rows of padding, which weigh nothing. ``source_index`` is what
    ``Batch.source`` says.
    """
    tokenizer = open_tokenizer(run)
    (opened,) = open_sources(run, [source], tokenizer)
    reader = Reader(run, {source_index: opened}, tokenizer, PLAIN)
    packs = min(run.evaluate.packs, len(opened.plan))
    rows = run.data.microbatch
    batches = []
    for start in range(0, packs, rows * data_size):
        first = start + data_rank * rows
        numbers = range(first, first + rows)
        filled = [reader.row(Place(source_index, 0, n)) if n < packs else [] for n in numbers]
        batches.append(reader.batch(filled))
    return batches


def _require_split(run: RunConfig, data_size: int) -> None:
    """Raise ConfigError unless the global batch splits evenly over ranks and microbatches."""
    unit = run.data.microbatch * data_size
    if run.data.global_batch < 1 or run.data.global_batch % unit:
        nearest = max(1, round(run.data.global_batch / unit)) * unit
        raise ConfigError(
            f"data.global_batch {run.data.global_batch} is not a multiple of data.microbatch {run.data.microbatch} x "
            f"{data_size} data-parallel ranks; use data.global_batch={nearest}"
        )
