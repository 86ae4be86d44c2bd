"""Reads one sample of a corpus ready for a batch: token ids and normalised patches.

Decoded images are kept (bounded) before anything random happens to them; crop, flip and noise are drawn per sample and
epoch, from nothing else.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from megatron_nmm.config import RunConfig
from megatron_nmm.data.cache import PixelCache
from megatron_nmm.data.corpus import Corpus, Sample
from megatron_nmm.data.images import Decoder, Pixels
from megatron_nmm.data.rule import Grid, ImageRule
from megatron_nmm.data.transforms import add_noise, augment, normalise, patchify, resize, sample_generator
from megatron_nmm.errors import DataError


@dataclass(frozen=True)
class Loaded:
    """One sample as a batch needs it."""

    id: str
    kind: int
    source: int
    tokens: npt.NDArray[np.int32]
    """[tokens]"""
    patches: tuple[npt.NDArray[np.float32], ...]
    """Per image [patches, C * p * p]."""
    grids: tuple[Grid, ...]


@dataclass(frozen=True)
class Variation:
    """What training changes about an image; validation and prompts use :data:`PLAIN`."""

    augment: bool
    noise: float
    seed: int


PLAIN = Variation(augment=False, noise=0.0, seed=0)


@dataclass(frozen=True)
class Loader:
    """Loads samples of one run's corpora."""

    rule: ImageRule
    decoder: Decoder
    cache: PixelCache
    variation: Variation

    def load(self, corpus: Corpus, source: int, number: int, epoch: int) -> Loaded:
        """Sample ``number`` of ``corpus``, which is source ``source`` of the mixture; DataError names a bad image."""
        sample = corpus.sample(number)
        patches = self._patches(corpus, source, sample, epoch)
        return Loaded(sample.id, sample.kind, source, sample.tokens, patches, sample.grids)

    def _patches(self, corpus: Corpus, source: int, sample: Sample, epoch: int) -> tuple[npt.NDArray[np.float32], ...]:
        """Per image of the sample, its normalised patches."""
        if not sample.images:
            return ()
        varied = self.variation.augment or self.variation.noise > 0
        generator = sample_generator(self.variation.seed, sample.id, epoch) if varied else None
        patches = []
        for place in sample.images:
            # Without random crops the resized image is what repeats; with them only the decoded one is.
            pixels = self.cache.get((source, *place), partial(self._pixels, corpus, sample, place))
            if self.variation.augment and generator is not None:
                pixels = augment(pixels, self.rule.image_size, generator)
            values = normalise(patchify(pixels, self.rule.patch))
            if self.variation.noise > 0 and generator is not None:
                values = add_noise(values, self.variation.noise, generator)
            patches.append(values)
        return tuple(patches)

    def _pixels(self, corpus: Corpus, sample: Sample, place: tuple[int, int]) -> Pixels:
        try:
            pixels = self.decoder.decode(corpus.image(*place))
        except DataError as error:
            raise DataError(
                f"sample {sample.id!r} of corpus {corpus.folder}: {error}; "
                "replace or remove its image and tokenise again"
            ) from error
        return pixels if self.variation.augment else resize(pixels, self.rule.image_size)


def image_patches(encoded: bytes, rule: ImageRule, decoder: Decoder) -> npt.NDArray[np.float32]:
    """[patches, C * p * p] of one encoded image, without variation."""
    return normalise(patchify(resize(decoder.decode(encoded), rule.image_size), rule.patch))


def run_rule(run: RunConfig) -> ImageRule:
    """The image rule a run's configuration asks for; raises DataError when its sizes do not fit each other."""
    return ImageRule(image_size=run.data.image_size, patch=run.model.vision.patch)
