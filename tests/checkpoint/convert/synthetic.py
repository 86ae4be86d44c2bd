"""Checkpoints of any size without a model: random weights of every tensor that a model would have."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from megatron_nmm.checkpoint import manifest, progress, publish
from megatron_nmm.checkpoint.convert import torch_dist
from megatron_nmm.checkpoint.convert.torch_dist import Announced
from megatron_nmm.checkpoint.families import native
from megatron_nmm.checkpoint.families.shapes import shapes
from megatron_nmm.checkpoint.manifest import Manifest
from megatron_nmm.checkpoint.progress import Progress
from megatron_nmm.checkpoint.publish import CHECKPOINTS
from megatron_nmm.config import RunConfig
from megatron_nmm.config.io import to_dict

TABLES = ("output_layer.weight", "embedding.word_embeddings.weight")
"""What scores tokens, in a model of either kind."""


def checkpoint_of(run: RunConfig, folder: Path, silent: Sequence[int] = ()) -> Path:
    """Write ``<folder>/checkpoints/step-00000001`` with weights around 0, norms and LayerScale around 1.

    Tokens ``silent`` are as good as never the likeliest.
    """
    place = folder / CHECKPOINTS / publish.name_of(1)
    place.mkdir(parents=True)
    wanted = shapes(run.model, [row.ours for row in native.rows(run.model, run.model.vocabulary)])
    generator = torch.Generator().manual_seed(11)
    tensors = {
        name: Announced(shape, torch.float32, partial(_drawn, shape, generator, silent if name in TABLES else ()))
        for name, shape in wanted.items()
    }
    torch_dist.write(place, tensors)
    progress.write(place, Progress(1, 8, to_dict(run)))
    files = {path.name: manifest.seal(path) for path in place.iterdir()}
    manifest.write(place, Manifest(1, files))
    return place


def _drawn(shape: tuple[int, ...], generator: torch.Generator, silent: Sequence[int]) -> torch.Tensor:
    centre = 1.0 if len(shape) == 1 else 0.0
    made = torch.randn(shape, generator=generator).mul_(0.15).add_(centre)
    made[list(silent)] = 0.0
    return made
