"""Checkpoints of a few bytes, published by the real code, for tests that need no model."""

from pathlib import Path

from megatron_nmm.checkpoint import manifest, publish
from megatron_nmm.checkpoint.manifest import Manifest
from megatron_nmm.files import lock


def save_bytes(
    checkpoints: Path, step: int, content: dict[str, bytes], keep: int = 2, pinned: tuple[int, ...] = ()
) -> Path:
    """What save.py does on one rank, with ``content`` (file name: bytes) in place of a model."""
    with lock.hold(checkpoints):
        writing = publish.begin(checkpoints, step)
        for name, value in content.items():
            (writing / name).write_bytes(value)
        files = {name: manifest.seal(writing / name) for name in content}
        manifest.write(writing, Manifest(step, files))
        publish.commit(checkpoints, step, keep, pinned)
    return checkpoints / publish.name_of(step)


def faults(checkpoint: Path) -> list[str]:
    """Everything wrong with a checkpoint, read by one rank."""
    listed = manifest.read(checkpoint)
    return manifest.faults(checkpoint, listed, listed.files)


def names(checkpoints: Path) -> list[str]:
    """All names in the folder except the lock's, sorted."""
    return sorted(path.name for path in checkpoints.iterdir() if path.name != lock.NAME)
