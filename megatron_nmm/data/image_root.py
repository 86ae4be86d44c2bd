"""Reads the images that records name by path: from under one folder or URL, and from nowhere else."""

import errno
import os
import stat
from pathlib import Path
from typing import Protocol

from megatron_nmm.data.raw.opening import filesystem, is_url
from megatron_nmm.data.raw.record import leaves_folder
from megatron_nmm.errors import DataError, NMMError

THE_SAMPLES_FAULT = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EINVAL,
    }
)
"""What is wrong with one image. Any other fault is the storage's and would reject everything that is left."""


class Unreachable(NMMError):
    """The storage of the images does not answer; no sample is to blame."""


class ImageRoot(Protocol):
    """Where image paths start from."""

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of one image; DataError when it is missing, elsewhere or above ``limit`` bytes.

        Raises Unreachable when the storage fails.
        """
        ...


def open_root(place: str) -> ImageRoot:
    """The images under a local folder or an fsspec URL."""
    return RemoteRoot(place) if is_url(place) else LocalRoot(Path(place))


class LocalRoot:
    """A folder; links inside it may lead to other places inside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.path.realpath(folder)

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of one image."""
        _refuse_leaving(name)
        try:
            path = os.path.realpath(os.path.join(self._folder, name), strict=True)
            if os.path.commonpath([self._folder, path]) != self._folder:
                raise DataError(f"image {name!r} is a link that leaves the image folder; copy the file into it")
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):
                raise DataError(f"image {name!r} cannot be read: it is not a file")
            _refuse_large(name, found.st_size, limit)
            return Path(path).read_bytes()
        except ValueError as error:
            raise DataError(f"image {name!r} cannot be read: {error}") from error
        except OSError as error:
            raise _fault(name, error) from error


class RemoteRoot:
    """A URL of any file system that fsspec knows."""

    def __init__(self, url: str) -> None:
        self._files, self._base = filesystem(url)

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of one image."""
        _refuse_leaving(name)
        path = f"{self._base.rstrip('/')}/{name}"
        try:
            _refuse_large(name, self._files.info(path)["size"] or 0, limit)
            encoded: bytes = self._files.cat_file(path)
        except DataError:
            raise
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
            raise DataError(f"image {name!r} cannot be read: {error.strerror or 'it does not exist'}") from error
        except Exception as error:  # every store has exceptions of its own
            raise Unreachable(
                f"image {name!r} cannot be fetched from {self._base}: {error}; finished shards are kept: when the "
                "storage answers again, run the same command"
            ) from error
        _refuse_large(name, len(encoded), limit)
        return encoded


def _refuse_leaving(name: str) -> None:
    if leaves_folder(name):
        raise DataError(f"image path {name!r} leaves the image folder; use a path relative to it")


def _refuse_large(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise DataError(f"image {name!r} has {size} bytes, more than the limit of {limit}; shrink it")


def _fault(name: str, error: OSError) -> NMMError:
    if error.errno in THE_SAMPLES_FAULT:
        return DataError(f"image {name!r} cannot be read: {error.strerror}")
    return Unreachable(
        f"image {name!r} cannot be read: {error.strerror or error}; finished shards are kept: when the storage works "
        "again, run the same command"
    )
