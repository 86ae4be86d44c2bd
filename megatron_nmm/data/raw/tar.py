"""Streams the members of a tar: nothing is unpacked, no link is followed, and a cut file says where it was cut."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from megatron_nmm.data.raw.opening import Chunks, CutStream

BLOCK = tarfile.BLOCKSIZE
MAX_MEMBER = 1 << 28
"""Largest member that is read into memory."""
MAX_NAME = 1 << 20
"""Longest name, or table of a member's properties, that is believed."""
LONG_NAME, LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
REFUSED = {
    tarfile.SYMTYPE: "a symbolic link, which is never followed",
    tarfile.LNKTYPE: "a hard link, which is never followed",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file; store it whole",
}
"""Kind of member -> what it is; such members are rejected."""


@dataclass(frozen=True)
class Member:
    """One member that is no folder."""

    done: int
    """Bytes of the file read so far."""
    name: str
    data: bytes
    fault: str
    """Why it cannot be used; empty when it can."""


def members(chunks: Chunks) -> Iterator[Member]:
    """The members of a tar in order, folders left out; raises CutStream where it is cut or damaged."""
    stream, last, extended = _Stream(chunks), "", dict[str, str]()
    while True:
        header = stream.take(BLOCK, f"a header after {last!r}" if last else "its first header")
        if not header.strip(b"\0"):
            break
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            place = f"after member {last!r}" if last else "at its begin"
            raise CutStream(f"the tar is damaged {place} ({error})") from error
        if info.type in (LONG_NAME, LONG_LINK, *PAX, tarfile.XGLTYPE):
            if not 0 <= info.size <= MAX_NAME:
                raise CutStream(f"the tar is damaged after member {last!r} (a name of {info.size} bytes)")
            body = stream.member(info.size, f"the long name after {last!r}")
            extended |= _extension(info.type, body)
            continue
        last = extended.get("path") or info.name
        size = _size(extended.get("size"), info.size, last)
        sparse = any(key.startswith("GNU.sparse") for key in extended)
        extended = {}
        if info.type == tarfile.DIRTYPE:
            continue
        fault = REFUSED[tarfile.GNUTYPE_SPARSE] if sparse else REFUSED.get(info.type, "")
        if not fault and info.type not in FILES:
            fault = f"of the unknown kind {info.type!r}"
        if info.type in REFUSED and info.type != tarfile.GNUTYPE_SPARSE:
            size = 0
        if size > MAX_MEMBER:
            fault = f"larger than the limit of {MAX_MEMBER} bytes"
        data = stream.member(size, f"member {last!r}", keep=not fault)
        yield Member(stream.done, last, data, fault)
    if rest := stream.rest():
        raise CutStream(f"{rest} bytes follow the end mark of the tar after {last!r} and were not read")


def _extension(kind: bytes, body: bytes) -> dict[str, str]:
    """What a GNU long name or a pax header says about the next member."""
    if kind == LONG_NAME:
        return {"path": body.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    if kind not in PAX:
        return {}
    found = {}
    while body:
        # Each entry is "length key=value\n", the length counting itself.
        length, _, _ = body.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(body):
            raise CutStream("the tar has a damaged pax header")
        entry = body[len(length) + 1 : int(length) - 1]
        key, _, value = entry.partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        body = body[int(length) :]
    return found


def _size(extended: str | None, plain: int, name: str) -> int:
    """Bytes of the member; what a pax header says goes before the header's own field."""
    if plain < 0 or (extended and not (extended.isdecimal() and len(extended) < 20)):
        raise CutStream(f"the tar is damaged at member {name!r} (no size)")
    return int(extended) if extended else plain


class _Stream:
    """Takes exact numbers of bytes from chunks."""

    def __init__(self, chunks: Chunks) -> None:
        self.done = 0
        self._chunks = chunks
        self._held = b""
        self._at = 0

    def take(self, size: int, what: str, keep: bool = True) -> bytes:
        """The next ``size`` bytes (nothing unless ``keep``); raises CutStream when they are not there."""
        pieces = []
        while size:
            if self._at == len(self._held):
                self.done, self._held = next(self._chunks, (self.done, b""))
                self._at = 0
                if not self._held:
                    raise CutStream(f"the tar ends before {what} is complete: it was cut")
            piece = self._held[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            if keep:
                pieces.append(piece)
        return b"".join(pieces)

    def member(self, size: int, what: str, keep: bool = True) -> bytes:
        """The content of a member; the filling up to the next block is passed over."""
        data = self.take(size, what, keep)
        self.take(-size % BLOCK, what, keep=False)
        return data

    def rest(self) -> int:
        """Bytes from the first that is not zero to the end; all are read, so that check sums are checked."""
        count = 0
        held = self._held[self._at :]
        while held or count == 0:
            count += len(held) if count else len(held.lstrip(b"\0"))
            self.done, held = next(self._chunks, (self.done, b""))
            if not held:
                break
        return count
