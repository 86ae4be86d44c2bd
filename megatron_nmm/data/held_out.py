"""Validation batches: every held-out source opened once, its batches kept in memory when they are few."""

from dataclasses import fields

import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.load import held_out_variation
from megatron_nmm.data.mixture import Place
from megatron_nmm.data.reader import Microbatch, Reader
from megatron_nmm.data.sources import open_sources, open_tokenizer

KEPT_BYTES = 256 << 20
"""Batches kept in memory by one process; sources beyond it are read again at every validation."""


class HeldOut:
    """``run.evaluate.sources`` as one rank reads them.

    Images are neither cropped at random nor noisy, and the packs are the same every time: the first
    ``run.evaluate.packs`` of each source.
    """

    def __init__(self, run: RunConfig, data_rank: int, data_size: int, kept_bytes: int = KEPT_BYTES) -> None:
        """Open every source; raises ConfigError or DataError, each with its remedy."""
        tokenizer = open_tokenizer(run)
        self._sources = open_sources(run, run.evaluate.sources, tokenizer)
        self.source_names = tuple(source.name for source in self._sources)
        self._reader = Reader(run, dict(enumerate(self._sources)), tokenizer, held_out_variation(run))
        self._packs, self._rows = run.evaluate.packs, run.data.microbatch
        self._data_rank, self._data_size = data_rank, data_size
        self._room = kept_bytes
        self._kept: dict[int, list[Microbatch]] = {}

    def batches(self, source: int) -> list[Microbatch]:
        """This rank's share of source number ``source``, which is what ``Batch.source`` says.

        Every rank gets the same number of batches of ``data.microbatch`` rows; what is missing at the end is filled
        with rows of padding, which weigh nothing.
        """
        if source in self._kept:
            return self._kept[source]
        packs = min(self._packs, len(self._sources[source].plan))
        read = []
        for start in range(0, packs, self._rows * self._data_size):
            first = start + self._data_rank * self._rows
            numbers = range(first, first + self._rows)
            read.append(self._reader.read([Place(source, 0, n) if n < packs else None for n in numbers]))
        size = sum(size_in_bytes(microbatch.batch) for microbatch in read)
        if size <= self._room:
            self._room -= size
            self._kept[source] = read
        return read


def size_in_bytes(batch: Batch) -> int:
    """Memory of the tensors of a batch."""
    values = (getattr(batch, field.name) for field in fields(batch))
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))
