"""Weights of a Hugging Face folder into a model, in any layout, by a table of rows; one tensor at a time per rank.

The engine knows no model: a family's rows say which tensor of theirs becomes which of ours. Everything is compared by
the files' headers first, so nothing is changed when anything does not fit.
"""

from collections import ChainMap, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from megatron_nmm.checkpoint.agree import everywhere, on_main
from megatron_nmm.checkpoint.audit import Shapes, require_fit
from megatron_nmm.checkpoint.hf_folder import HFFolder
from megatron_nmm.checkpoint.rows import Row
from megatron_nmm.parallel import full_state
from megatron_nmm.parallel.world import World


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
