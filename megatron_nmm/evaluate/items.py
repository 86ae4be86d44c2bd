"""What a model is asked in an evaluation: prompts with images and what people answered, one JSON object a line."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from megatron_nmm.data.prompt import Prompt
from megatron_nmm.data.raw.record import IMAGE_MARKER, KINDS, leaves_folder
from megatron_nmm.errors import DataError

FIELDS = ("id", "kind", "prompt", "images", "references")
"""All that a line may hold; ``id``, ``kind`` and ``images`` may be left out."""


class ImageFiles(Sequence[bytes]):
    """The encoded images of a prompt, read when they are looked at: a benchmark's images need not fit into memory."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: Any) -> Any:
        try:
            return self.paths[number].read_bytes()
        except OSError as error:
            raise DataError(f"image {error.filename} cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class Item:
    """One question."""

    id: str
    kind: str
    """One of ``KINDS``; unless the line says, text without an image, caption with one, interleaved with more."""
    prompt: Prompt
    references: tuple[str, ...]
    """What people answered, at least one text."""


def read_items(file: Path, images: Path | None = None, most: int | None = None) -> list[Item]:
    """The first ``most`` items of ``file`` (None = all); images are paths under ``images`` (default: beside ``file``).

    Raises DataError that names the line of the first item that cannot be used.
    """
    folder = file.parent if images is None else images
    try:
        with file.open(encoding="utf-8") as lines:
            items = list(islice(_items(lines, file, folder), most))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}; give a JSONL file of {', '.join(FIELDS)}") from error
    if not items:
        raise DataError(f"{file} holds no item; give a line of JSON with prompt and references for each question")
    return items


def _items(lines: Iterator[str], file: Path, folder: Path) -> Iterator[Item]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _item(json.loads(line), number, folder)
            except ValueError as error:
                raise DataError(f"{file}:{number}: {error}") from error


def _item(values: Any, number: int, folder: Path) -> Item:
    """The item of one line; ValueError says what is wrong with it."""
    if not isinstance(values, dict) or values.keys() - set(FIELDS):
        raise ValueError(f"is no object of {', '.join(FIELDS)} alone")
    prompt, paths, references = values.get("prompt"), values.get("images", []), values.get("references")
    if not isinstance(prompt, str) or not _texts(paths):
        raise ValueError("prompt is no text, or images is no list of paths")
    if not _texts(references) or not references:
        raise ValueError("references is no list of texts with at least one; put what people answered there")
    if outside := [path for path in paths if leaves_folder(path)]:
        raise ValueError(f"image {outside[0]} leads out of {folder}; give paths inside, or --images")
    if prompt.count(IMAGE_MARKER) != len(paths):
        raise ValueError(
            f"prompt has {prompt.count(IMAGE_MARKER)} {IMAGE_MARKER} markers but {len(paths)} images; "
            "give one image for each marker"
        )
    kind = values.get("kind", KINDS[min(len(paths), 2)])
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is none of {', '.join(KINDS)}")
    files = ImageFiles([folder / path for path in paths])
    return Item(str(values.get("id", number)), kind, (prompt, files), tuple(references))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
