"""Seeded random batches of the real structure: text, caption and interleaved documents packed into rows."""

import numpy as np
import torch

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch

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
    rows, length = run.data.microbatch, run.data.sequence_length
    tokens, labels, positions, modality, source, kinds = np.zeros((6, rows, length), dtype=np.int64)
    weight = np.zeros((rows, length), dtype=np.float32)
    starts, blocks = [], []
    for row in range(rows):
        ends = [0]
        for number, (kind, parts) in enumerate(_documents(run, generator, images)):
            first = ends[-1]
            at = first
            for part in parts:
                if part[0] == IMAGE_TOKEN:
                    blocks.append((row, at, at + len(part)))
                at += len(part)
            document = np.concatenate(parts)
            span, before = slice(first, at), slice(first, at - 1)
            tokens[row, span], positions[row, span] = document, np.arange(len(document))
            modality[row, span] = document == IMAGE_TOKEN
            source[row, span], kinds[row, span] = number % sources, kind
            weight[row, before] = document[1:] != IMAGE_TOKEN
            labels[row, before] = np.where(document[1:] != IMAGE_TOKEN, document[1:], 0)
            ends.append(at)
        positions[row, ends[-1] :] = np.arange(length - ends[-1])
        starts.append([*ends, length] if ends[-1] < length else ends)
    widest = max(map(len, starts))
    padded = np.array([s + [length] * (widest - len(s)) for s in starts], dtype=np.int32)
    block_array = np.array(blocks, dtype=np.int64).reshape(-1, 3)
    side = run.data.image_size // run.model.vision.patch
    targets = (block_array[:, :1] * length + block_array[:, 1:2] + np.arange(side * side)).reshape(-1)
    patches = generator.standard_normal((len(targets), run.model.vision.patch_values)).astype(np.float32)
    arrays: dict[str, np.ndarray] = {
        "tokens": tokens,
        "labels": labels,
        "loss_weight": weight,
        "positions": positions,
        "document_starts": padded,
        "modality": modality,
        "image_blocks": block_array,
        "patches": patches,
        "grids": np.full((len(blocks), 2), side),
        "patch_targets": targets,
        "source": source,
        "kind": kinds,
    }
    tensors = {name: torch.from_numpy(values.copy()) for name, values in arrays.items()}
    return Batch(**tensors, sample_ids=tuple(() for _ in range(rows)))
