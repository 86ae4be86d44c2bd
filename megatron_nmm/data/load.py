"""Reads one sample of a corpus ready for a batch: token ids and normalised patches.

Decoded images are kept (bounded) before anything random happens to them; crop, flip and noise are drawn per sample and
epoch, from nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import numpy.typing as npt

from megatron_nmm.config import RunConfig
from megatron_nmm.data.cache import PixelCache
from megatron_nmm.data.corpus import Corpus, Sample
from megatron_nmm.data.decoders.protocol import Decoder, Least, Pixels, Size
from megatron_nmm.data.rule import Grid, ImageRule, View, rule_of
from megatron_nmm.data.transforms import (
    Crop,
    add_noise,
    centre,
    draw_crop,
    normalise,
    pad,
    patchify,
    sample_generator,
    whole,
)
from megatron_nmm.errors import DataError

Patches = npt.NDArray[np.float32]
"""[patches, C * p * p] of one view."""
Decode = Callable[[Least | None], Pixels]
"""Decodes one image, at a reduced scale as far as the given size allows."""


@dataclass(frozen=True)
class Loaded:
    """One sample as a batch needs it."""

    id: str
    kind: int
    source: int
    tokens: npt.NDArray[np.int32]
    """[tokens]"""
    patches: tuple[Patches, ...]
    """Per view [patches, C * p * p]."""
    grids: tuple[Grid, ...]
    """Per view."""


@dataclass(frozen=True)
class Variation:
    """What is done to an image beyond its rule."""

    augment: bool
    """A random part of it, perhaps mirrored (square rule only)."""
    noise: float
    seed: int
    centred: bool = False
    """Without ``augment``: the largest square in its middle instead of the whole image (square rule only)."""


PLAIN = Variation(augment=False, noise=0.0, seed=0)


def held_out_variation(run: RunConfig) -> Variation:
    """What validation and prompts see: nothing random, and centre squares if training sees parts of images."""
    return Variation(augment=False, noise=0.0, seed=0, centred=run.data.augment)


@dataclass(frozen=True)
class Loader:
    """Loads samples of one run's corpora; safe to use from several threads."""

    rule: ImageRule
    decoder: Decoder
    cache: PixelCache
    variation: Variation

    def load(self, corpus: Corpus, source: int, number: int, epoch: int) -> Loaded:
        """Sample ``number`` of ``corpus``, which is source ``source`` of the mixture; DataError names a bad image."""
        sample = corpus.sample(number)
        patches = self._patches(corpus, source, sample, epoch)
        return Loaded(sample.id, sample.kind, source, sample.tokens, patches, sample.grids)

    def _patches(self, corpus: Corpus, source: int, sample: Sample, epoch: int) -> tuple[Patches, ...]:
        """Per view of the sample, its normalised patches."""
        if not sample.images:
            return ()
        generator = sample_generator(self.variation.seed, sample.id, epoch)
        patches: list[Patches] = []
        while len(patches) < len(sample.images):
            first = len(patches)
            place, size = sample.images[first], sample.sizes[first]
            views = self.rule.views(size.height, size.width)
            if sample.grids[first : first + len(views)] != tuple(view.grid for view in views):
                raise DataError(
                    f"sample {sample.id!r} of corpus {corpus.folder}: its image of {size.height} x {size.width} pixels "
                    "does not have the grids that the corpus says; the corpus is damaged: tokenise it again with "
                    "tools/tokenise.py"
                )
            decode = partial(self._decode, corpus, sample, place)
            if self.variation.augment:
                seen = [self._part(decode, (source, *place), size, view, generator) for view in views]
            else:
                seen = self._whole(decode, (source, *place), size, views)
            for pixels, view in zip(seen, views, strict=True):
                values = to_patches(pixels, view, self.rule)
                if self.variation.noise > 0:
                    values = add_noise(values, self.variation.noise, generator)
                patches.append(values)
        return tuple(patches)

    def _part(
        self, decode: Decode, key: tuple[int, ...], size: Size, view: View, generator: np.random.Generator
    ) -> Pixels:
        """A random part of the image. What repeats is the decoded image: it is kept if it is small."""
        crop = draw_crop(size.height, size.width, generator)
        if self.cache.keeps(size.height * size.width * 3):
            pixels = self.cache.get(key, partial(decode, None))
        else:
            pixels = decode(crop.least(view.height, view.width))
        return crop.apply(pixels, view.height, view.width)

    def _whole(self, decode: Decode, key: tuple[int, ...], size: Size, views: tuple[View, ...]) -> list[Pixels]:
        """Every view of the image, decoded once at most. What repeats are the resized views."""
        crop = _plain_crop(self.variation.centred, size)
        decoded = cache(partial(decode, crop.least(views[-1].height, views[-1].width)))

        def resized(view: View) -> Pixels:
            return crop.apply(decoded(), view.height, view.width)

        return [self.cache.get((*key, view.height, view.width), partial(resized, view)) for view in views]

    def _decode(self, corpus: Corpus, sample: Sample, place: tuple[int, int], least: Least | None) -> Pixels:
        try:
            return self.decoder.decode(corpus.image(*place), least)
        except DataError as error:
            raise DataError(
                f"sample {sample.id!r} of corpus {corpus.folder}: {error}; "
                "replace or remove its image and tokenise again"
            ) from error


def image_patches(
    encoded: bytes, rule: ImageRule, decoder: Decoder, centred: bool = False
) -> tuple[tuple[Patches, ...], tuple[View, ...]]:
    """Per view of one encoded image its patches, without variation, and the views; ``centred`` as in Variation."""
    pixels = decoder.decode(encoded)
    size = Size(pixels.shape[0], pixels.shape[1])
    views = rule.views(size.height, size.width)
    crop = _plain_crop(centred, size)
    patches = [to_patches(crop.apply(pixels, view.height, view.width), view, rule) for view in views]
    return tuple(patches), views


def to_patches(pixels: Pixels, view: View, rule: ImageRule) -> Patches:
    """The patches of a view from its pixels, padded to its grid."""
    padded = pad(pixels, view.grid.rows * rule.patch, view.grid.columns * rule.patch)
    return normalise(patchify(padded, rule.patch, rule.shuffle))


def run_rule(run: RunConfig) -> ImageRule:
    """The image rule a run's configuration asks for; raises DataError when its sizes do not fit each other."""
    return rule_of(
        run.data.image_rule,
        patch=run.model.vision.patch,
        image_size=run.data.image_size,
        min_patches=run.data.min_patches,
        max_patches=run.data.max_patches,
        multi_scale=run.data.multi_scale,
        shuffle=run.model.vision.shuffle,
    )


def _plain_crop(centred: bool, size: Size) -> Crop:
    return centre(size.height, size.width) if centred else whole(size.height, size.width)
