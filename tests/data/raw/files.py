"""Raw data files for the tests of reading them."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow

from megatron_nmm.data.raw.record import Record, Rejection
from megatron_nmm.data.raw.schema import Schema
from megatron_nmm.data.raw.units import plan_units, read_unit
from tests.data.corpora import png

Given = Iterable[tuple[str, bytes | tarfile.TarInfo]]
"""(name, content or a header without content) of the members of a tar."""


def read(*inputs: Path | str, schema: Schema | None = None, unit_bytes: int | None = None) -> list[Record | Rejection]:
    """Everything in the inputs."""
    units = plan_units([str(name) for name in inputs], unit_bytes)
    return [record for unit in units for _, record in read_unit(unit, schema)]


def records(found: Sequence[Record | Rejection]) -> list[Record]:
    """Only the records."""
    return [one for one in found if isinstance(one, Record)]


def rejections(found: Sequence[Record | Rejection]) -> list[Rejection]:
    """Only the rejections."""
    return [one for one in found if isinstance(one, Rejection)]


def jsonl(*values: dict[str, Any]) -> bytes:
    """One record a line."""
    return b"".join(json.dumps(one).encode() + b"\n" for one in values)


def pack(content: bytes, packing: str) -> bytes:
    """``content`` packed as the end of a file's name says."""
    if packing == "gz":
        return gzip.compress(content, mtime=0)
    if packing == "zst":
        return bytes(pyarrow.compress(content, codec="zstd", asbytes=True))
    return content


def tar(members: Given, format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as file:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                file.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    """The header of a link, a device or a pipe."""
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def captions(count: int, prefix: str = "") -> list[tuple[str, bytes]]:
    """Members of ``count`` image-caption samples."""
    names = [f"{prefix}{number:03d}" for number in range(count)]
    return [
        member
        for number, name in enumerate(names)
        for member in ((f"{name}.png", png(number, side=2)), (f"{name}.txt", f"thing {number}\n".encode()))
    ]
