"""Opens raw data wherever it lies and however it is packed: local paths and URLs; plain, .gz and .zst."""

import hashlib
import os
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from megatron_nmm.errors import DataError

CHUNK = 1 << 20
"""Bytes read at a time."""
ZSTD_PIECE = 1 << 12
"""Bytes asked of the zstd reader at a time: what a cut file loses before its cut is less than this."""
FINGERPRINT = 1 << 16
"""Bytes at each end that a fingerprint covers."""
_GZIP = 31
"""zlib's name for deflate with a gzip header and check sum."""

Chunks = Iterator[tuple[int, bytes]]
"""(bytes of the file read so far, the next bytes of its content)."""


class CutStream(Exception):
    """The content ends before it is complete or is damaged; everything up to there was given."""


def is_url(name: str) -> bool:
    """Whether ``name`` is a URL for fsspec rather than a local path."""
    return "://" in name


def base_name(name: str) -> str:
    """The last part of a path or URL, without a query."""
    if is_url(name):
        name = name.split("?")[0]
    return os.path.basename(name.rstrip("/"))


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system of ``url`` and the path in it; raises DataError when there is none for it."""
    from fsspec.core import url_to_fs

    try:
        found: tuple[Any, str] = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"{url} cannot be opened: {error}; install the package fsspec names for {url.split('://')[0]}://, "
            "or use a path or another kind of URL"
        ) from error
    return found


def open_file(name: str) -> BinaryIO:
    """``name`` opened for reading bytes, with seeks; raises DataError when that is impossible."""
    try:
        if is_url(name):
            files, path = filesystem(name)
            return cast(BinaryIO, files.open(path, "rb"))
        return open(name, "rb")
    except OSError as error:
        raise cannot_read(name, error) from error


def size_of(name: str) -> int:
    """Bytes of the file as it lies there; raises DataError when it cannot be asked."""
    try:
        if is_url(name):
            files, path = filesystem(name)
            size = files.size(path)
            if size is None:
                raise DataError(f"{name} does not tell its size; copy it to a local file first")
            return int(size)
        return os.stat(name).st_size
    except OSError as error:
        raise cannot_read(name, error) from error


def cannot_read(name: str, error: OSError) -> DataError:
    """The refusal for a file that cannot be read, whatever it holds."""
    return DataError(f"{name} cannot be read: {error.strerror or error}; correct its path or permissions and run again")


def fingerprint(name: str, first: int, last: int) -> str:
    """sha256 over the first and the last 64 KiB of the bytes from ``first`` to ``last``: cheap for remote files."""
    with open_file(name) as file:
        file.seek(first)
        found = hashlib.sha256(file.read(min(FINGERPRINT, last - first)))
        start = max(first, last - FINGERPRINT)
        file.seek(start)
        found.update(file.read(last - start))
    return found.hexdigest()


def chunks(name: str, packing: str, first: int, last: int) -> Chunks:
    """The content of the bytes from ``first`` to ``last`` of a file, unpacked if ``packing`` is gz or zst.

    Raises CutStream where the content is damaged or ends early, after everything before it was given, and DataError
    when the file cannot be read.
    """
    try:
        with open_file(name) as file:
            file.seek(first)
            yield from UNPACK[packing](file, last - first)
    except OSError as error:
        raise cannot_read(name, error) from error


def _plain(file: BinaryIO, size: int) -> Chunks:
    done = 0
    while done < size:
        piece = file.read(min(CHUNK, size - done))
        if not piece:
            raise CutStream(f"the file ends {size - done} bytes early: it was cut while it was read")
        done += len(piece)
        yield done, piece


def _gunzip(file: BinaryIO, size: int) -> Chunks:
    """The content of all gzip members, one after the other, with their check sums checked."""
    engine, inside = zlib.decompressobj(_GZIP), False
    for done, data in _plain(file, size):
        while data or engine.unconsumed_tail:
            if not inside:
                # Zeros may fill the space between members and at the end.
                data = data.lstrip(b"\0")
                if not data:
                    break
                engine, inside = zlib.decompressobj(_GZIP), True
            try:
                piece = engine.decompress(data, CHUNK)
            except zlib.error as error:
                raise CutStream(f"the gzip data is damaged near byte {done} of the file ({error})") from error
            if piece:
                yield done, piece
            inside = not engine.eof
            data = engine.unused_data if engine.eof else engine.unconsumed_tail
            if engine.eof:
                engine = zlib.decompressobj(_GZIP)
    if inside:
        raise CutStream(f"the gzip data ends in the middle: the file was cut at byte {size}")


def _unzstd(file: BinaryIO, size: int) -> Chunks:
    """The content of all zstd frames, one after the other."""
    import pyarrow

    stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")
    more = True
    while more:
        pieces: list[bytes] = []
        reason = ""
        try:
            while more and len(pieces) < CHUNK // ZSTD_PIECE:
                piece = stream.read(ZSTD_PIECE)
                more = bool(piece)
                pieces.append(piece)
        except OSError as error:
            if error.errno:
                raise
            reason = str(error)
        yield file.tell(), b"".join(pieces)
        if reason:
            raise CutStream(f"the zstd data is cut or damaged before byte {file.tell()} of {size} ({reason})")


UNPACK = {"": _plain, "gz": _gunzip, "zst": _unzstd}
"""How a file is packed -> what gives its content."""
