"""Files that appear whole or not at all: written beside their place, synced to disk, then renamed."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron_nmm.errors import DataError


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Replace ``path`` by these values in one step."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(values, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_folder(path.parent)


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in ``path``; raises DataError with ``remedy`` when it is missing or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; {remedy}") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); {remedy}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} is damaged (not a JSON object); {remedy}")
    return values


def sync_tree(folder: Path) -> None:
    """Sync every file directly in ``folder``, then the folder itself."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for one writing process; raises DataError when another one has it. A killed holder frees it."""
    with open(folder / ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"another process is writing to {folder}; wait for it or use another output") from error
        yield
