"""Resume from the newest checkpoint that verifies, and say which newer ones do not and why."""

from collections import ChainMap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from megatron_nmm.checkpoint import manifest, progress, publish
from megatron_nmm.checkpoint.agree import everywhere, on_main
from megatron_nmm.checkpoint.manifest import Manifest
from megatron_nmm.checkpoint.other_stage import OPTIMIZER_PREFIX, require_same_stage
from megatron_nmm.checkpoint.progress import Progress
from megatron_nmm.checkpoint.publish import CHECKPOINTS
from megatron_nmm.checkpoint.safety import require_harmless
from megatron_nmm.checkpoint.state import (
    Optimizer,
    Shapes,
    each_for_itself,
    forget_state,
    read,
    shapes,
    sharded,
    stored_shapes,
)
from megatron_nmm.config.recipes import is_state
from megatron_nmm.errors import CheckpointError
from megatron_nmm.files import lock
from megatron_nmm.parallel.world import World

SHOWN = 3
"""Misfitting tensors named in a message."""


def can_resume(folder: Path, world: World, say: Callable[[str], None] = print) -> bool:
    """Whether the run in ``folder`` has checkpoints, so that ``resume`` loads one or raises; collective.

    What an interrupted save left is tidied first: it may hold the newest checkpoint. ``say`` as in ``resume``.
    """
    return bool(_published(folder / CHECKPOINTS, world, say))


def resume(
    folder: Path, model: Any, optimizer: Optimizer, world: World, say: Callable[[str], None] = print
) -> Progress | None:
    """Fill ``model`` and ``optimizer`` from the newest intact checkpoint of the run in ``folder``; collective.

    The layout may differ from the one that saved. None when the run has no checkpoint. ``say`` gets, on rank 0, a line
    per leftover removed and per checkpoint skipped. Raises CheckpointError, the same on every rank, when checkpoints
    exist and none is intact, when the newest intact one does not fit the model, or when it could run code.
    """
    candidates = _published(folder / CHECKPOINTS, world, say)
    if not candidates:
        return None
    return _load(*_newest_intact(candidates, world, say), model, optimizer, world)


def continue_from(
    checkpoint: Path, model: Any, optimizer: Optimizer, world: World, say: Callable[[str], None] = print
) -> Progress:
    """Fill ``model`` and ``optimizer`` from one checkpoint of another run, in any layout; collective, reads only.

    Raises as ``resume`` does.
    """
    return _load(*find_intact(checkpoint, world, say), model, optimizer, world)


def load_weights(place: Path, model: Any, world: World, say: Callable[[str], None] = print) -> Progress:
    """Fill ``model`` alone, in any layout, from a checkpoint folder or from the newest intact one of a run folder.

    Reads only, and takes no lock: a run that is still writing is not disturbed. Returns the progress of the run that
    saved it; its ``config`` describes the model. Raises as ``resume`` does, and when there is no checkpoint.
    """
    return _load(*find_intact(place, world, say), model, None, world)


def find_intact(place: Path, world: World, say: Callable[[str], None]) -> tuple[Path, Manifest]:
    """A checkpoint folder, or the newest intact one of a run folder, verified; collective.

    Raises CheckpointError, the same on every rank, when there is none.
    """
    one = publish.step_of(place) is not None
    candidates = [place] if one else on_main(world, "listing", lambda: publish.published(place / CHECKPOINTS))
    if not candidates:
        raise CheckpointError(
            f"{place} holds no checkpoint; give a run's folder, or one of its {CHECKPOINTS}/step-... folders"
        )
    return _newest_intact(candidates, world, say)


def _published(checkpoints: Path, world: World, say: Callable[[str], None]) -> list[Path]:
    """Checkpoints in a tidied folder, newest first. Collective."""
    _say_all(world, say, on_main(world, "tidying the folder", lambda: _tidy(checkpoints)))
    return on_main(world, "listing checkpoints", lambda: publish.published(checkpoints))


def _tidy(checkpoints: Path) -> list[str]:
    if not checkpoints.is_dir():
        return []
    with lock.hold(checkpoints):
        return publish.recover(checkpoints)


def _newest_intact(candidates: list[Path], world: World, say: Callable[[str], None]) -> tuple[Path, Manifest]:
    """The first of ``candidates`` whose files are all as its manifest says; every rank comes to the same answer."""
    skipped = []
    for checkpoint in candidates:
        listed = on_main(world, "reading a manifest", partial(publish.manifest_or_fault, checkpoint))
        if isinstance(listed, Manifest):
            faults = _faults(checkpoint, listed, world)
            if not faults:
                return checkpoint, listed
        else:
            faults = [listed]
        skipped.append(f"{checkpoint.name}: {', '.join(faults)}")
        _say_all(world, say, [f"skipped {skipped[-1]}"])
    raise CheckpointError(
        f"no checkpoint in {candidates[0].parent} is intact; nothing was changed. {'; '.join(skipped)}. Restore "
        "one from a copy, or start over in another folder (folder=...)"
    )


def _faults(checkpoint: Path, listed: Manifest, world: World) -> list[str]:
    """All faults of a checkpoint's files; each rank hashes a share of them."""
    share = manifest.share(listed, world.rank, world.size)
    found = everywhere(world, "verifying a checkpoint", lambda: manifest.faults(checkpoint, listed, share))
    return [fault for part in found for fault in part]


def _load(checkpoint: Path, listed: Manifest, model: Any, optimizer: Optimizer | None, world: World) -> Progress:
    """Fill ``model`` and, if given, ``optimizer`` from an intact checkpoint. Collective."""
    on_main(world, "looking for code", lambda: require_harmless(checkpoint, listed.files))
    reached = on_main(world, "reading progress", lambda: progress.read(checkpoint))
    state = sharded(model, optimizer, world, is_loading=True)
    with each_for_itself():
        wanted = everywhere(world, "naming tensors", lambda: shapes(state))
        on_main(world, "comparing shapes", lambda: _require_fit(checkpoint, dict(ChainMap(*wanted)), optimizer))
        forget_state(state, stored_shapes(checkpoint))
        everywhere(world, "reading tensors", lambda: read(checkpoint, state, model, optimizer))
    return reached


def _require_fit(checkpoint: Path, wanted: Shapes, optimizer: Optimizer | None) -> None:
    """Raise unless the checkpoint holds exactly the tensors ``wanted`` by all ranks, in their shapes.

    What number formats remember is not compared: a run may change its recipe.
    """
    stored = {name: shape for name, shape in stored_shapes(checkpoint).items() if not is_state(name)}
    wanted = {name: shape for name, shape in wanted.items() if not is_state(name)}
    if optimizer is None:
        stored = {name: shape for name, shape in stored.items() if not name.startswith(OPTIMIZER_PREFIX)}
    else:
        require_same_stage(checkpoint, wanted, stored)
    found = [f"{name} is not in it" for name in sorted(wanted.keys() - stored.keys())]
    found += [f"{name} is in it, but not in this model" for name in sorted(stored.keys() - wanted.keys())]
    found += [
        f"{name} has shape {stored[name]}, this model wants {wanted[name]}"
        for name in sorted(wanted.keys() & stored.keys())
        if wanted[name] != stored[name]
    ]
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise CheckpointError(
            f"{checkpoint} does not fit this run: {'; '.join(found[:SHOWN])}{more}. Start with the model settings that "
            f"wrote it ({progress.NAME} in that folder holds them), or in another folder (folder=...)"
        )


def _say_all(world: World, say: Callable[[str], None], remarks: list[str]) -> None:
    if world.is_main:
        for remark in remarks:
            say(remark)
