"""A new folder appears under its name complete, or not at all: filled under another name, renamed at the end."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_nmm.errors import NMMError
from megatron_nmm.files.durable import sync_folder


class FolderExists(NMMError):
    """Something is already where the folder is to appear; names it."""


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """The folder to fill inside the block; afterwards it is ``folder``, or gone when the block raised.

    Its files are the block's to flush. Raises FolderExists when ``folder`` is there and not an empty folder. What an
    earlier, killed attempt left is removed first.
    """
    folder = folder.absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FolderExists(f"{folder} exists and is not empty; name another folder, or remove it first")
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    made = _missing(folder.parent)
    partial.mkdir(parents=True)
    try:
        yield partial
        sync_folder(partial)
        partial.rename(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in made:
            parent.rmdir()
        raise


def _missing(folder: Path) -> list[Path]:
    """``folder`` and its parents as far as they do not exist, innermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    return missing
