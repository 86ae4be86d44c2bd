"""Writes that survive a power cut: a file or a folder counts as written once it was forced to permanent storage."""

import os
from pathlib import Path


def write_text(file: Path, text: str) -> None:
    """Write ``text`` to ``file`` and flush it to permanent storage; the folder's own entry is ``sync_folder``'s job."""
    with file.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the entries of ``folder`` (names created, renamed or removed in it) to permanent storage."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
