"""Seeded random batches of the real structure: text, caption and interleaved documents packed into rows."""

from itertools import islice

import numpy as np

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.collate import collate
from megatron_nmm.data.load import Loaded
from megatron_nmm.data.rule import Grid

FIRST_TEXT_TOKEN, IMAGE_TOKEN = 2, 1
"""Ids below FIRST_TEXT_TOKEN are never text; IMAGE_TOKEN stands for one image token."""


def batches(run: RunConfig, count: int, seed: int, *, sources: int = 1, images: bool = True) -> list[Batch]:
    """``count`` microbatches of ``run.data.microbatch`` rows; without ``images`` all of it is text."""
    generator = np.random.default_rng(seed)
    return [_batch(run, generator, sources, images) for _ in range(count)]


def _documents(run: RunConfig, generator: np.random.Generator, images: bool) -> list[tuple[int, list[np.ndarray]]]:
    """Documents filling one row: (number of images = kind, runs of token ids), image runs hold IMAGE_TOKEN only."""
    side = run.data.image_size // run.model.vision.patch
    left = run.data.sequence_length
    documents: list[tuple[int, list[np.ndarray]]] = []
    while True:
        kind = int(generator.integers(0, 3)) if images else 0
        parts = []
        for _ in range(kind):
            parts.append(np.full(side * side, IMAGE_TOKEN))
            parts.append(generator.integers(FIRST_TEXT_TOKEN, run.model.vocabulary, int(generator.integers(1, 3))))
        parts.append(generator.integers(FIRST_TEXT_TOKEN, run.model.vocabulary, int(generator.integers(2, 9))))
        length = sum(map(len, parts))
        if length > left:
            return documents
        documents.append((kind, parts))
        left -= length


def _batch(run: RunConfig, generator: np.random.Generator, sources: int, images: bool) -> Batch:
    rows = [_documents(run, generator, images) for _ in range(run.data.microbatch)]
    side, values = run.data.image_size // run.model.vision.patch, run.model.vision.patch_values
    count = sum(kind for documents in rows for kind, _ in documents)
    patches = iter(generator.standard_normal((count, side * side, values)).astype(np.float32))
    loaded = [
        [
            Loaded(
                id=f"{row}-{number}",
                kind=kind,
                source=number % sources,
                tokens=np.concatenate(parts).astype(np.int32),
                patches=tuple(islice(patches, kind)),
                grids=(Grid(side, side),) * kind,
            )
            for number, (kind, parts) in enumerate(documents)
        ]
        for row, documents in enumerate(rows)
    ]
    return collate(loaded, run.data.sequence_length, image=IMAGE_TOKEN, pad=0, patch_values=values)
