"""What reading raw data gives: a Record that can be used, or a Rejection that says why not, never nothing."""

from dataclasses import dataclass

IMAGE_MARKER = "<image>"
"""Marks the place of an image in the text of a record or a prompt."""
KINDS = ("text", "caption", "interleaved")
"""What a sample can be; ``Batch.kind`` and ``Sample.kind`` are indices into it."""


@dataclass(frozen=True, slots=True)
class RawImage:
    """One image of a record, as found."""

    name: str
    """Path relative to the image folder, tar member, or ``images[2]`` of a Parquet row."""
    data: bytes | None
    """The encoded bytes; None when they stand in the file ``name`` under the image folder."""


@dataclass(frozen=True, slots=True)
class Record:
    """One sample as found."""

    id: str
    kind: str
    """One of :data:`KINDS`."""
    segments: tuple[str, ...]
    """The texts before, between and after the images: one more than there are images, some may be empty."""
    images: tuple[RawImage, ...]
    where: str
    """``file:line``, ``file@byte``, ``file:row`` or ``file:key``, for messages."""
    sha256: bytes
    """Of the raw record."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that cannot be used, and why."""

    id: str
    where: str
    reason: str


def printable(name: str) -> str:
    """``name`` as it can be stored and shown, whatever bytes a file system or an archive made it of."""
    return name.encode("utf-8", "backslashreplace").decode()


def leaves_folder(name: str) -> bool:
    """Whether the path ``name``, parts between slashes, may lead out of the folder it starts from."""
    return name.startswith("/") or ".." in name.split("/")


def segments(text: str) -> list[str]:
    """The texts before, between and after the markers: one more than there are markers, some may be empty.

    White space that touches a marker only separates it from the text and is left out; all other text is kept.
    """
    parts = text.split(IMAGE_MARKER)
    last = len(parts) - 1
    for number, part in enumerate(parts):
        if number > 0:
            part = part.lstrip()
        if number < last:
            part = part.rstrip()
        parts[number] = part
    return parts
