"""What a Hugging Face folder must hold for a model: every tensor, its shape and a format of weights, and no more."""

import re
from collections.abc import Collection, Mapping

import torch

from megatron_nmm.checkpoint.grow import twin_shape
from megatron_nmm.checkpoint.hf_folder import WEIGHTS, HFFolder
from megatron_nmm.checkpoint.rows import Row
from megatron_nmm.errors import CheckpointError

SHOWN = 4
"""Misfitting tensors named in a message."""
Shapes = Mapping[str, tuple[int, ...]]


def require_fit(folder: HFFolder, filled: Mapping[str, Row], ignored: Collection[str], shapes: Shapes) -> None:
    """Raise CheckpointError unless ``folder`` holds just what ``filled`` asks for, in the shapes of the model."""
    found, used = [], set[str]()
    for name, row in filled.items():
        # What we would hand out is what must come in: the way back of a row, run on shapes alone.
        shape_of_row = shapes[name] if row.ours == name else twin_shape(name, shapes[name])
        beside = [torch.empty(shapes[other], device="meta") for other in row.beside]
        expected = row.cut(torch.empty(shape_of_row, device="meta"), *beside)
        for source, part in zip(row.theirs, expected, strict=True):
            shape = folder.shapes.get(source)
            if shape is None:
                found.append(f"{source} (for {name}) is missing")
            elif shape != tuple(part.shape):
                found.append(f"{source} has shape {shape}, {name} wants {tuple(part.shape)}")
            elif folder.formats[source] not in WEIGHTS:
                found.append(f"{source} holds {folder.formats[source]}, weights are {', '.join(WEIGHTS)}")
            used.add(source)
    pattern = re.compile("|".join(ignored) or "(?!)")
    left = sorted(name for name in folder.shapes if name not in used and not pattern.fullmatch(name))
    found += [f"{name} has no place in this model" for name in left]
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise CheckpointError(
            f"{folder.place} does not fit this model: {'; '.join(found[:SHOWN])}{more}. Fetch the folder again if "
            "tensors are missing; otherwise its config.json and its weights are not of one model"
        )
