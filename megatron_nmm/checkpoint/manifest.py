"""A checkpoint's manifest: the size and sha256 of every file in its folder, and the check of a folder against it.

Hashes are taken from the files as they lie on disk, after they were flushed, not from the bytes on their way there.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_nmm.errors import CheckpointError
from megatron_nmm.files import durable

NAME = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One file of a checkpoint: its length in bytes and its sha256 in hexadecimal."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The step of a checkpoint and its files by name."""

    step: int
    files: Mapping[str, Entry]


def seal(file: Path) -> Entry:
    """Force ``file`` to permanent storage and describe what lies there."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return Entry(os.fstat(stream.fileno()).st_size, digest)


def write(checkpoint: Path, manifest: Manifest) -> None:
    """Write the manifest into the folder it describes, durably."""
    files = {name: asdict(manifest.files[name]) for name in sorted(manifest.files)}
    text = json.dumps({"format": FORMAT, "step": manifest.step, "files": files}, indent=1)
    durable.write(checkpoint / NAME, f"{text}\n".encode())


def read(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint. Raises CheckpointError with one reason when it is missing or makes no sense."""
    try:
        tree = json.loads((checkpoint / NAME).read_text())
        files = {str(name): Entry(int(row["bytes"]), str(row["sha256"])) for name, row in tree["files"].items()}
        manifest, form = Manifest(int(tree["step"]), files), int(tree["format"])
    except FileNotFoundError:
        raise CheckpointError(f"{NAME} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise CheckpointError(f"{NAME} cannot be read ({type(fault).__name__}: {fault})") from fault
    if form != FORMAT:
        raise CheckpointError(f"{NAME} has format {form}, this version reads format {FORMAT}")
    for name in files:
        if Path(name).name != name:
            raise CheckpointError(f"{NAME} names {name!r}, which is not a plain file name")
    return manifest


def share(manifest: Manifest, rank: int, size: int) -> list[str]:
    """The files that ``rank`` of ``size`` checks: dealt out largest first, so that ranks finish together."""
    by_size = sorted(manifest.files, key=lambda name: (-manifest.files[name].bytes, name))
    return by_size[rank::size]


def faults(checkpoint: Path, manifest: Manifest, names: Iterable[str]) -> list[str]:
    """What is wrong with the files ``names`` of a checkpoint, one sentence each; empty when they are intact."""
    found = (_fault(checkpoint / name, manifest.files[name]) for name in names)
    return [fault for fault in found if fault is not None]


def _fault(file: Path, entry: Entry) -> str | None:
    try:
        difference = file.stat().st_size - entry.bytes
        if difference:
            word = "longer" if difference > 0 else "shorter"
            return f"{file.name} is {abs(difference):,} bytes {word} than its manifest says ({entry.bytes:,})"
        with file.open("rb") as stream:
            intact = hashlib.file_digest(stream, "sha256").hexdigest() == entry.sha256
    except FileNotFoundError:
        return f"{file.name} is missing"
    except OSError as fault:
        return f"{file.name} cannot be read ({fault.strerror})"
    return None if intact else f"{file.name} has changed since it was written (its sha256 is not the manifest's)"
