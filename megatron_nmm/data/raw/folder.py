"""Finds the raw files behind an input: a file, a folder of files, or a WebDataset prepared for Megatron-Energon."""

import os
from dataclasses import dataclass

from megatron_nmm.data.raw.energon import META, Shard, listed_shards
from megatron_nmm.data.raw.formats import ENDINGS, format_of
from megatron_nmm.data.raw.opening import base_name, cannot_read, filesystem, is_url
from megatron_nmm.data.raw.record import printable
from megatron_nmm.data.raw.schema import Schema
from megatron_nmm.errors import DataError

PART = "#"
"""Stands between a prepared WebDataset and the part of its split that is read."""


@dataclass(frozen=True)
class RawFile:
    """One file to read, and what its folder says about it."""

    name: str
    """Local path or URL."""
    label: str
    """Name for ids and messages: base name, or path in the given folder."""
    schema: Schema | None = None
    excluded: tuple[str, ...] = ()


def expand(name: str) -> list[RawFile]:
    """The files behind ``name`` in the order they are read, at least one.

    A folder with ``.nv-meta`` gives the shards of its split's part ``train``, or of the part named after a ``#``; any
    other folder gives every file of a supported kind below it, sorted by path. Raises DataError when there is nothing.
    """
    folder, _, part = name.partition(PART)
    if part and not _exists(name) and _exists(_join(folder, META)):
        return _prepared(folder, part)
    if not _is_folder(name):
        if not _exists(name):
            raise DataError(f"input {name} does not exist; give files, folders or URLs of raw data")
        return [RawFile(name, printable(base_name(name)))]
    if _exists(_join(name, META)):
        return _prepared(name, "")
    found = [path for path in _files(name) if format_of(path) is not None]
    if not found:
        raise DataError(f"folder {name} holds no raw data; supported are {', '.join(ENDINGS)}")
    return [RawFile(_join(name, path), printable(path)) for path in found]


def _prepared(folder: str, part: str) -> list[RawFile]:
    """The shards a folder prepared for Energon lists."""

    def named(shard: Shard) -> RawFile:
        path = _join(folder, shard.path)
        if not _exists(path):
            raise DataError(f"{folder}/{META} lists {shard.path}, which does not exist; restore it or list it no more")
        return RawFile(path, shard.path, shard.schema, shard.excluded)

    return [named(shard) for shard in listed_shards(folder, part, _exists)]


def _join(folder: str, path: str) -> str:
    return f"{folder.rstrip('/')}/{path}"


def _exists(name: str) -> bool:
    if not is_url(name):
        return os.path.exists(name)
    files, path = filesystem(name)
    try:
        return bool(files.exists(path))
    except OSError as error:
        raise cannot_read(name, error) from error


def _is_folder(name: str) -> bool:
    if not is_url(name):
        return os.path.isdir(name)
    if format_of(name) is not None:
        # Asking a web server whether a file is a folder would load it as a page.
        return False
    files, path = filesystem(name)
    return bool(files.isdir(path))


def _files(folder: str) -> list[str]:
    """Paths of all files below a folder, relative to it and sorted; hidden ones are left out."""
    if is_url(folder):
        files, root = filesystem(folder)
        root = root.rstrip("/")
        found = [str(path)[len(root) + 1 :] for path in files.find(root)]
    else:
        found = [os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.split("/")))
