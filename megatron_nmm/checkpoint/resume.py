"""Resume from the newest checkpoint that verifies, and say which newer ones do not and why."""

import warnings
from collections import ChainMap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from megatron_nmm.checkpoint import manifest, progress, publish
from megatron_nmm.checkpoint.agree import everywhere, on_main
from megatron_nmm.checkpoint.manifest import Manifest
from megatron_nmm.checkpoint.progress import Progress
from megatron_nmm.checkpoint.safety import require_harmless
from megatron_nmm.checkpoint.save import CHECKPOINTS
from megatron_nmm.checkpoint.state import Optimizer, Shapes, read, shapes, sharded, stored_shapes
from megatron_nmm.errors import CheckpointError
from megatron_nmm.files import lock
from megatron_nmm.parallel.world import World

SHOWN = 3
"""Misfitting tensors named in a message."""
OPTIMIZER_PREFIX = "optimizer.state."
"""Names of optimizer tensors begin so; megatron-core's choice."""


def resume(
    folder: Path, model: Any, optimizer: Optimizer, world: World, say: Callable[[str], None] = print
) -> Progress | None:
    """Fill ``model`` and ``optimizer`` from the newest intact checkpoint of the run in ``folder``; collective.

    The layout may differ from the one that saved. None when the run has no checkpoint. ``say`` gets, on rank 0, a line
    per leftover removed and per checkpoint skipped. Raises CheckpointError, the same on every rank, when checkpoints
    exist and none is intact, when the newest intact one does not fit the model, or when it could run code.
    """
    checkpoints = folder / CHECKPOINTS
    _say_all(world, say, on_main(world, "tidying the folder", lambda: _tidy(checkpoints)))
    candidates = on_main(world, "listing checkpoints", lambda: publish.published(checkpoints))
    if not candidates:
        return None
    return _load(*_newest_intact(candidates, world, say), model, optimizer, world)


def load_weights(place: Path, model: Any, world: World, say: Callable[[str], None] = print) -> Progress:
    """Fill ``model`` alone, in any layout, from a checkpoint folder or from the newest intact one of a run folder.

    Reads only, and takes no lock: a run that is still writing is not disturbed. Returns the progress of the run that
    saved it; its ``config`` describes the model. Raises as ``resume`` does, and when there is no checkpoint.
    """
    one = publish.step_of(place) is not None
    candidates = [place] if one else on_main(world, "listing", lambda: publish.published(place / CHECKPOINTS))
    if not candidates:
        raise CheckpointError(
            f"{place} holds no checkpoint; give a run's folder, or one of its {CHECKPOINTS}/step-... folders"
        )
    return _load(*_newest_intact(candidates, world, say), model, None, world)


def _tidy(checkpoints: Path) -> list[str]:
    if not checkpoints.is_dir():
        return []
    with lock.hold(checkpoints):
        return publish.recover(checkpoints)


def _newest_intact(candidates: list[Path], world: World, say: Callable[[str], None]) -> tuple[Path, Manifest]:
    """The first of ``candidates`` whose files are all as its manifest says; every rank comes to the same answer."""
    skipped = []
    for checkpoint in candidates:
        listed = on_main(world, "reading a manifest", partial(_manifest_or_fault, checkpoint))
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


def _manifest_or_fault(checkpoint: Path) -> Manifest | str:
    try:
        listed = manifest.read(checkpoint)
    except CheckpointError as fault:
        return str(fault)
    if listed.step != publish.step_of(checkpoint):
        return f"its manifest is of step {listed.step}"
    return listed


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
    with warnings.catch_warnings():
        # Every rank reads for itself, on purpose; torch takes that for a forgotten process group and says so each time.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled|The argument order of load")
        wanted = everywhere(world, "naming tensors", lambda: shapes(state))
        on_main(world, "comparing shapes", lambda: _require_fit(checkpoint, dict(ChainMap(*wanted)), optimizer))
        everywhere(world, "reading tensors", lambda: read(checkpoint, state, model, optimizer))
    return reached


def _require_fit(checkpoint: Path, wanted: Shapes, optimizer: Optimizer | None) -> None:
    """Raise unless the checkpoint holds exactly the tensors ``wanted`` by all ranks, in their shapes."""
    stored = stored_shapes(checkpoint)
    if optimizer is None:
        stored = {name: shape for name, shape in stored.items() if not name.startswith(OPTIMIZER_PREFIX)}
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
