"""Publication of a checkpoint folder: it appears under its name complete, or it does not appear.

Names inside ``<run>/checkpoints``:

| name                | meaning                                                       | at the next start          |
|---------------------|---------------------------------------------------------------|----------------------------|
| step-00000100       | a published checkpoint                                        | kept                       |
| latest              | text: the name of the last one published, for people, scripts | kept                       |
| .tmp-step-00000100  | being written                                                 | removed                    |
| .tmp-latest         | the next content of ``latest``                                | removed                    |
| .old-step-00000100  | stepped aside for a newer save of the same step               | put back if that is absent |
| .gone-step-00000100 | being deleted                                                 | removed                    |

Every change between these names is one rename, so a process can be killed before or after it, never inside it.
Anything that can need space is written before the first rename: a full disk is met while nothing has changed yet.
All functions run on one rank, under ``lock.hold``.
"""

import re
import shutil
from collections.abc import Collection
from pathlib import Path

from megatron_nmm.checkpoint import manifest
from megatron_nmm.checkpoint.manifest import Manifest
from megatron_nmm.errors import CheckpointError
from megatron_nmm.files import durable
from megatron_nmm.files.durable import sync_folder

CHECKPOINTS = "checkpoints"
"""Folder in a run's folder."""
POINTER = "latest"
WRITING, STEPPED_ASIDE, DELETING = ".tmp-", ".old-", ".gone-"


def name_of(step: int) -> str:
    """Folder name of the checkpoint of ``step``."""
    return f"step-{step:08d}"


def step_of(checkpoint: Path) -> int | None:
    """The step in a published checkpoint's folder name; None for any other path."""
    found = re.fullmatch(r"step-(\d{8,})", checkpoint.name)
    return int(found[1]) if found else None


def manifest_or_fault(checkpoint: Path) -> Manifest | str:
    """What a published checkpoint lists, or why that is not its list; its files are not looked at yet."""
    try:
        listed = manifest.read(checkpoint)
    except CheckpointError as fault:
        return str(fault)
    if listed.step != step_of(checkpoint):
        return f"its manifest is of step {listed.step}"
    return listed


def published(checkpoints: Path) -> list[Path]:
    """Published checkpoints, newest step first; not yet verified."""
    if not checkpoints.is_dir():
        return []
    steps = {path: step_of(path) for path in checkpoints.iterdir() if path.is_dir()}
    return [
        path for path, step in sorted(steps.items(), key=lambda item: item[1] or 0, reverse=True) if step is not None
    ]


def writing_place(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` lies while it is written."""
    return checkpoints / (WRITING + name_of(step))


def begin(checkpoints: Path, step: int) -> Path:
    """Create and return the empty folder in which the checkpoint of ``step`` is written."""
    if not checkpoints.is_dir():
        checkpoints.mkdir(parents=True, exist_ok=True)
        sync_folder(checkpoints.parent)
    recover(checkpoints)
    writing = writing_place(checkpoints, step)
    writing.mkdir()
    return writing


def commit(checkpoints: Path, step: int, keep: int, pinned: Collection[int] = ()) -> list[str]:
    """Publish what lies complete in the folder of ``begin``, point ``latest`` at it, drop what is beyond ``keep``.

    Steps in ``pinned`` stay and do not count.

    Returns remarks on old checkpoints that could not be deleted. After an OSError, call ``recover``: what was there
    before is there again.
    """
    name = name_of(step)
    writing, final, aside = writing_place(checkpoints, step), checkpoints / name, checkpoints / (STEPPED_ASIDE + name)
    durable.write(checkpoints / (WRITING + POINTER), f"{name}\n".encode())
    sync_folder(writing)
    if final.exists():
        final.rename(aside)
    writing.rename(final)
    sync_folder(checkpoints)
    (checkpoints / (WRITING + POINTER)).replace(checkpoints / POINTER)
    sync_folder(checkpoints)
    stale = [aside] if aside.exists() else []
    return _delete_all(stale + _beyond(checkpoints, step, keep, pinned))


def recover(checkpoints: Path) -> list[str]:
    """Bring the folder back in order after a save that was killed or failed; returns one remark per thing done."""
    remarks = []
    for path in sorted(checkpoints.glob(".*-*")) if checkpoints.is_dir() else []:
        final = checkpoints / path.name.removeprefix(STEPPED_ASIDE)
        if path.name == WRITING + POINTER:
            path.unlink()
        elif path.name.startswith(STEPPED_ASIDE) and not final.exists():
            path.rename(final)
            sync_folder(checkpoints)
            remarks.append(f"put {final.name} back: the save that was to replace it did not finish")
        elif path.name.startswith((WRITING, STEPPED_ASIDE, DELETING)):
            remarks.append(f"removed {path.name}, left over from a save that did not finish")
            remarks += _delete_all([path])
    return remarks


def _beyond(checkpoints: Path, newest: int, keep: int, pinned: Collection[int]) -> list[Path]:
    """Checkpoints older than ``newest``, without the ``keep`` - 1 next to it and those ``pinned``.

    Later steps than ``newest`` exist only when resume found them damaged and went back; they are evidence, not clutter.
    """
    older = [path for path in published(checkpoints) if (step_of(path) or 0) < newest and step_of(path) not in pinned]
    return older[max(1, keep) - 1 :]


def _delete_all(folders: list[Path]) -> list[str]:
    """Delete each folder; what cannot be deleted is a remark, because the new checkpoint is safe all the same."""
    remarks = []
    for folder in folders:
        try:
            _delete(folder)
        except OSError as fault:
            remarks.append(f"could not delete the old {folder.name} ({fault.strerror}); it takes space until then")
    return remarks


def _delete(folder: Path) -> None:
    """Delete a folder in two moves, so that no half of it is ever seen under its name."""
    if not folder.name.startswith(DELETING):
        gone = folder.with_name(DELETING + folder.name.removeprefix(WRITING).removeprefix(STEPPED_ASIDE))
        if gone.exists():
            shutil.rmtree(gone)
        folder = folder.rename(gone)
    shutil.rmtree(folder)
