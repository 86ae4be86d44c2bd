"""The fixed inputs that prove an export: text, one image, two images; drawn by number, the same for ever.

What a model is asked is token ids and patches, so no tokenizer and no decoder of images stands between two models.
Shapes: S tokens, P patches, V views of images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.collate import collate
from megatron_nmm.data.load import Loaded, run_rule
from megatron_nmm.data.rule import Grid

SEED = 20_251
TEXT = 12
"""Tokens of text around images."""
PIECES: Mapping[str, tuple[int, ...]] = {"text": (), "one image": (1,), "two images": (1, 2)}
"""Probe -> its images, each as wide as high, times the smallest side that the image rule knows."""
SMALLEST = 64
"""Pixels a side; a native rule makes more of too few."""


@dataclass(frozen=True)
class Probe:
    """One document to be scored and continued."""

    name: str
    tokens: torch.Tensor
    """[S] int64."""
    patches: torch.Tensor
    """[P, C * p * p] fp32."""
    grids: torch.Tensor
    """[V, 2] int64, rows and columns of patches."""


def probes(run: RunConfig, special: Mapping[str, int], vocabulary: int, *, images: bool) -> tuple[Probe, ...]:
    """The probes of a model that knows ids below ``vocabulary``; ``special`` as ``Tokenizer.special``.

    Without ``images``, text alone.
    """
    kept = {name: sides for name, sides in PIECES.items() if images or not sides}
    return tuple(
        _probe(run, special, vocabulary, name, sides, np.random.default_rng(SEED + number))
        for number, (name, sides) in enumerate(kept.items())
    )


def _probe(
    run: RunConfig,
    special: Mapping[str, int],
    vocabulary: int,
    name: str,
    sides: Sequence[int],
    generator: np.random.Generator,
) -> Probe:
    rule = run_rule(run)
    plain = np.setdiff1d(np.arange(vocabulary), np.array(list(special.values()), dtype=np.int64))
    tokens, patches, grids = [generator.choice(plain, TEXT)], list[np.ndarray](), list[tuple[int, int]]()
    for side in sides:
        views = rule.views(side * SMALLEST, SMALLEST)
        tokens += [np.array(rule.image_ids(views, special)), generator.choice(plain, TEXT)]
        for view in views:
            patches.append(generator.standard_normal((view.grid.patches, run.model.vision.patch_values)))
            grids.append((view.grid.rows, view.grid.columns))
    values = np.concatenate([*patches, np.zeros((0, run.model.vision.patch_values))])
    return Probe(
        name,
        torch.from_numpy(np.concatenate(tokens).astype(np.int64)),
        torch.from_numpy(values.astype(np.float32)),
        torch.tensor(grids, dtype=torch.int64).reshape(-1, 2),
    )


def batch_of(run: RunConfig, special: Mapping[str, int], probe: Probe, tokens: torch.Tensor) -> Batch:
    """``probe`` with ``tokens`` [S] in place of its own, as one row without padding for a training model."""
    sizes = probe.grids.prod(1).tolist()
    patches = tuple(part.numpy() for part in probe.patches.split(sizes))
    grids = tuple(Grid(*grid) for grid in probe.grids.tolist())
    sample = Loaded(probe.name, min(len(grids), 2), 0, tokens.numpy().astype(np.int32), patches, grids)
    vision = run.model.vision
    return collate([[sample]], len(tokens), special, vision.patch_values, vision.shuffle)
