"""Seeded random batches of the real structure: text, caption and interleaved documents packed into rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.collate import collate
from megatron_nmm.data.load import Loaded, run_rule
from megatron_nmm.data.rule import Grid, ImageRule, View

SPECIAL = {"pad": 0, "image": 1, "begin_of_image": 2, "end_of_image": 3, "end_of_line": 4, "end_of_scale": 5}
"""Token ids by name, as ``Tokenizer.special``."""
IMAGE_TOKEN, FIRST_TEXT_TOKEN = SPECIAL["image"], len(SPECIAL)
"""Ids below FIRST_TEXT_TOKEN are never text."""


@dataclass(frozen=True)
class _Document:
    """Tokens and the grids of the views among them; its kind is its number of images."""

    kind: int
    tokens: np.ndarray
    grids: tuple[Grid, ...]


def batches(run: RunConfig, count: int, seed: int, *, sources: int = 1, images: bool = True) -> list[Batch]:
    """``count`` microbatches of ``run.data.microbatch`` rows; without ``images`` all of it is text."""
    generator = np.random.default_rng(seed)
    return [_batch(run, generator, sources, images) for _ in range(count)]


def _views(run: RunConfig, rule: ImageRule, generator: np.random.Generator) -> tuple[View, ...]:
    """One image: the square rule's only view; under the native rule a random shape, perhaps with a smaller copy."""
    if rule.name == "square":
        return rule.views(1, 1)
    sides = [
        (rows, columns) for rows in (2, 4, 6) for columns in (2, 4, 6, 8) if rows * columns <= run.data.max_patches
    ]
    rows, columns = sides[int(generator.integers(0, len(sides)))]
    view = _view(rows, columns, rule.patch)
    # Halves of even numbers of merge groups only: every grid is whole squares of 2 x 2 patches.
    smaller = run.data.multi_scale and rows % 4 == columns % 4 == 0
    return (_view(rows // 2, columns // 2, rule.patch), view) if smaller else (view,)


def _view(rows: int, columns: int, patch: int) -> View:
    return View(Grid(rows, columns), rows * patch, columns * patch)


def _documents(run: RunConfig, generator: np.random.Generator, images: bool) -> list[_Document]:
    """Documents filling one row."""
    rule = run_rule(run)
    left = run.data.sequence_length
    documents: list[_Document] = []
    while True:
        kind = int(generator.integers(0, 3)) if images else 0
        parts, grids = [], []
        for _ in range(kind):
            views = _views(run, rule, generator)
            grids += [view.grid for view in views]
            parts.append(np.array(rule.image_ids(views, SPECIAL)))
            parts.append(generator.integers(FIRST_TEXT_TOKEN, run.model.vocabulary, int(generator.integers(1, 3))))
        parts.append(generator.integers(FIRST_TEXT_TOKEN, run.model.vocabulary, int(generator.integers(2, 9))))
        tokens = np.concatenate(parts).astype(np.int32)
        if len(tokens) > left:
            return documents
        documents.append(_Document(kind, tokens, tuple(grids)))
        left -= len(tokens)


def _patches(documents: Sequence[_Document], values: int, generator: np.random.Generator) -> list[np.ndarray]:
    """[patches of a view, C * p * p] random pixels of every view."""
    grids = [grid for document in documents for grid in document.grids]
    return [generator.standard_normal((grid.patches, values)).astype(np.float32) for grid in grids]


def _batch(run: RunConfig, generator: np.random.Generator, sources: int, images: bool) -> Batch:
    rows = [_documents(run, generator, images) for _ in range(run.data.microbatch)]
    vision = run.model.vision
    patches = iter(_patches([document for row in rows for document in row], vision.patch_values, generator))
    loaded = [
        [
            Loaded(
                id=f"{row}-{number}",
                kind=document.kind,
                source=number % sources,
                tokens=document.tokens,
                patches=tuple(islice(patches, len(document.grids))),
                grids=document.grids,
            )
            for number, document in enumerate(documents)
        ]
        for row, documents in enumerate(rows)
    ]
    return collate(loaded, run.data.sequence_length, SPECIAL, vision.patch_values, vision.shuffle)
