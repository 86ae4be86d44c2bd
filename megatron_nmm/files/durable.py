"""Writes that survive a power cut: a file or a folder counts as written once it was forced to permanent storage."""

import contextlib
import os
from pathlib import Path


def write(file: Path, content: bytes) -> None:
    """Write ``content`` to ``file`` and flush it to permanent storage; ``sync_folder`` does the same for its name."""
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def replace(file: Path, content: bytes) -> None:
    """Give ``file`` this content, whole or not at all: an earlier file stays until the new one is on disk.

    The content is written beside it first; that file is removed again when the disk refuses.
    """
    partial = file.with_name(f".{file.name}.partial")
    try:
        write(partial, content)
        partial.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Flush the entries of ``folder`` (names created, renamed or removed in it) to permanent storage."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_files(folder: Path) -> None:
    """Flush every file directly in ``folder``, then its entries."""
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    sync_folder(folder)
