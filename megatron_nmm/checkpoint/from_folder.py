"""Weights of a Hugging Face folder into a model, in any layout, by a table of rows; one tensor at a time per rank.

The engine knows no model: a family's rows say which tensor of theirs becomes which of ours. Everything is compared by
the files' headers first, so nothing is changed when anything does not fit.
"""

import re
from collections import ChainMap, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from megatron_nmm.checkpoint.agree import everywhere, on_main
from megatron_nmm.checkpoint.grow import twin_shape
from megatron_nmm.checkpoint.hf_folder import WEIGHTS, HFFolder
from megatron_nmm.checkpoint.rows import Row
from megatron_nmm.errors import CheckpointError
from megatron_nmm.parallel import full_state
from megatron_nmm.parallel.world import World

SHOWN = 4
"""Misfitting tensors named in a message."""
Shapes = Mapping[str, tuple[int, ...]]


def model_shapes(model: torch.nn.Module, world: World) -> Shapes:
    """Name and whole shape of every tensor of ``model``, over all ranks. Collective."""
    mine = {piece.key: tuple(piece.global_shape) for piece in full_state.pieces(model)}
    return dict(ChainMap(*everywhere(world, "naming tensors", lambda: mine)))


def load_rows(
    folder: HFFolder,
    filled: Mapping[str, Row],
    ignored: Collection[str],
    shapes: Shapes,
    model: torch.nn.Module,
    world: World,
) -> None:
    """Fill the tensors ``filled`` (name of ours -> the row it comes from) of ``model``; collective.

    A row may fill several (a visual expert begins as a copy of the text weight). ``shapes`` are those of
    ``model_shapes``. Tensors of the folder whose whole name matches a pattern of ``ignored`` may be left over. Raises
    CheckpointError, the same on every rank and before anything is changed, when tensors lack, have another shape, or
    are left over.
    """
    on_main(world, "comparing shapes", lambda: require_fit(folder, filled, ignored, shapes))
    everywhere(world, "reading tensors", lambda: _fill(folder, filled, model))


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


def _fill(folder: HFFolder, filled: Mapping[str, Row], model: torch.nn.Module) -> None:
    """Each row is read once, whatever this rank holds of what it fills."""
    targets = defaultdict[str, list[Any]](list)
    rows = {row.ours: row for row in filled.values()}
    for piece in full_state.pieces(model):
        if piece.key in filled:
            targets[filled[piece.key].ours].append(piece)
    with torch.no_grad():
        for name, pieces in targets.items():
            whole = rows[name].join([folder.read(source) for source in rows[name].theirs])
            for piece in pieces:
                _copy(piece.data, whole, piece.global_slice())


def _copy(shard: torch.Tensor, whole: torch.Tensor, place: Sequence[slice]) -> None:
    """The part of ``whole`` at ``place``; rows beyond its end (a padded vocabulary) are left as they are.

    A shard of several experts gets ``whole`` for each of them.
    """
    if shard.dim() > whole.dim():
        shard.copy_(whole)
        return
    first = place[0].start
    rows = whole[tuple(place)]
    assert first + len(rows) == min(first + len(shard), max(first, len(whole))), "only the end may lack"
    shard[: len(rows)].copy_(rows)
