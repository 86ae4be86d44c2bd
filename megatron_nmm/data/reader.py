"""Turns places in the mixture into batches; a sample whose image cannot be decoded is replaced and reported.

It holds no position and may be used from several threads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.cache import PixelCache
from megatron_nmm.data.collate import collate
from megatron_nmm.data.decoders.select import choose
from megatron_nmm.data.load import Loaded, Loader, Variation, run_rule
from megatron_nmm.data.mixture import Place
from megatron_nmm.data.quarantine import BadSample, stand_ins
from megatron_nmm.data.sources import Source
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import DataError

CACHE_BYTES = 128 << 20
"""Decoded images kept in memory by one process."""
CACHED_IMAGE = 1 << 20
"""Largest decoded image that is kept."""


@dataclass(frozen=True)
class Row:
    """One packed row as read."""

    samples: tuple[Loaded, ...] = ()
    """What it holds, in order; none: a row of padding, without weight."""
    planned: int = 0
    """Samples the plan put into it."""
    replaced: int = 0
    """Those of them that something else stands in for."""
    bad: tuple[BadSample, ...] = ()
    """Every sample met that could not be loaded, replacements included."""


@dataclass(frozen=True)
class Microbatch:
    """A batch, and how reading it went."""

    batch: Batch
    rows: tuple[Row, ...]


class Reader:
    """Reads packs of a run's sources."""

    def __init__(
        self,
        run: RunConfig,
        sources: Mapping[int, Source],
        tokenizer: Tokenizer,
        variation: Variation,
        gpu: int | None = None,
    ) -> None:
        """``sources``: by the index that ``Batch.source`` carries; ``gpu``: number of one that may decode images."""
        self._run = run
        self._sources = sources
        self._tokenizer = tokenizer
        decoder = choose(run.data.decoder, run.data.decode, gpu)
        self.decoder_name = decoder.name
        """What decodes images."""
        self._loader = Loader(run_rule(run), decoder, PixelCache(CACHE_BYTES, CACHED_IMAGE), variation)

    def row(self, place: Place) -> Row:
        """The samples of one pack; what stands in for a bad one depends on its corpus alone."""
        source = self._sources[place.source]
        planned = source.plan.samples(place.pack)
        samples: list[Loaded] = []
        bad: list[BadSample] = []
        replaced = 0

        def load(number: int) -> Loaded | None:
            loaded = self._load(source, place, number)
            if isinstance(loaded, BadSample):
                bad.append(loaded)
                return None
            return loaded

        for number in planned:
            loaded = load(number)
            if loaded is not None:
                samples.append(loaded)
            else:
                replaced += 1
                samples += stand_ins(source.corpus, number, load)
        return Row(tuple(samples), len(planned), replaced, tuple(bad))

    def read(self, places: Sequence[Place | None]) -> Microbatch:
        """Packed rows of these places; None is a row of padding."""
        rows = tuple(Row() if place is None else self.row(place) for place in places)
        batch = collate(
            [row.samples for row in rows],
            sequence_length=self._run.data.sequence_length,
            special=self._tokenizer.special,
            patch_values=self._run.model.vision.patch_values,
            shuffle=self._loader.rule.shuffle,
        )
        return Microbatch(batch, rows)

    def _load(self, source: Source, place: Place, number: int) -> Loaded | BadSample:
        """The sample, tried twice: what failed for a passing reason must not be lost."""
        try:
            return self._loader.load(source.corpus, place.source, number, place.epoch)
        except DataError:
            try:
                return self._loader.load(source.corpus, place.source, number, place.epoch)
            except DataError as error:
                return self._bad(source, number, error)

    def _bad(self, source: Source, number: int, error: DataError) -> BadSample:
        """The note about a sample that failed twice, with the first image that does not decode by itself."""
        corpus = source.corpus
        sample = corpus.sample(number)
        image, reason = -1, str(error)
        for place in sample.images:
            try:
                self._loader.decoder.decode(corpus.image(*place))
            except DataError as cause:
                image, reason = place[1], str(cause)
                break
        if not sample.images:
            raise error
        shard = str(corpus.info["shards"][sample.images[0][0]]["folder"])
        return BadSample(str(corpus.folder), corpus.fingerprint, shard, number, sample.id, image, reason)
