"""Reads raw JSONL records line by line; what cannot be used becomes a Rejection with its reason, never nothing.

One record a line:
``{"id": "p-7", "kind": "interleaved", "text": "<image> plus <image> is eleven.", "images": ["a.png", "b.png"]}``
``kind`` is text, caption or interleaved; ``<image>`` in ``text`` marks the place of each image; ``images`` are paths
relative to the image folder, in order, and may be left out when there are none.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGE_MARKER = "<image>"
KINDS = ("text", "caption", "interleaved")
"""What a sample can be; ``Batch.kind`` and ``Sample.kind`` are indices into it."""


@dataclass(frozen=True)
class Record:
    """One sample as found."""

    id: str
    kind: str
    text: str
    images: tuple[str, ...]
    where: str
    """``file:line``, for messages."""
    sha256: bytes
    """Of the raw line, without its line end."""


@dataclass(frozen=True)
class Rejection:
    """A record that cannot be used, and why."""

    id: str
    where: str
    reason: str


def read_jsonl(path: Path) -> Iterator[tuple[int, Record | Rejection]]:
    """(bytes read so far, record or rejection) for every line that is not blank."""
    done = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            done += len(line)
            if line.strip():
                yield done, parse(line.rstrip(b"\r\n"), f"{path.name}:{number}")


def parse(line: bytes, where: str) -> Record | Rejection:
    """One raw line as a record, or the first reason why it is none."""
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Rejection("", where, f"not UTF-8 at byte {error.start}")
    except (json.JSONDecodeError, RecursionError) as error:
        return Rejection("", where, f"broken JSON: {error}")
    if not isinstance(values, dict):
        return Rejection("", where, f"the line is a JSON {type(values).__name__}, not an object")
    name = values["id"] if isinstance(values.get("id"), str) else ""
    if fault := _fault(values):
        return Rejection(name, where, fault)
    images = tuple(values.get("images", ()))
    return Record(name, values["kind"], values["text"], images, where, hashlib.sha256(line).digest())


def _fault(values: dict[str, Any]) -> str:
    """Why these values are no record; empty when they are."""
    for key in ("id", "kind", "text"):
        if key not in values:
            return f"field {key!r} is missing; the record has {', '.join(sorted(values)) or 'no fields'}"
        if not isinstance(values[key], str):
            return f"field {key!r} is not a string"
        if not _encodable(values[key]):
            return f"field {key!r} holds half of a surrogate pair, which is no character"
    if not values["id"]:
        return "field 'id' is empty"
    if values["kind"] not in KINDS:
        return f"kind {values['kind']!r} is not one of {', '.join(KINDS)}"
    images = values.get("images", [])
    if not isinstance(images, list) or not all(isinstance(i, str) and _encodable(i) for i in images):
        return "field 'images' is not a list of paths"
    markers = values["text"].count(IMAGE_MARKER)
    if markers != len(images):
        return f"the text has {markers} {IMAGE_MARKER} markers but there are {len(images)} images"
    if not values["text"].replace(IMAGE_MARKER, "").strip():
        return "the text is empty"
    return ""


def _encodable(text: str) -> bool:
    """Whether the text can be written as UTF-8; JSON escapes can spell strings that cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
