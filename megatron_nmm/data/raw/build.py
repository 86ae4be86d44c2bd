"""Turns the fields of one raw record into a Record, or a Rejection with the first reason why it is none."""

from collections.abc import Mapping, Sequence
from typing import Any

from megatron_nmm.data.raw.record import IMAGE_MARKER, KINDS, RawImage, Record, Rejection, leaves_folder, segments
from megatron_nmm.data.raw.schema import Schema, describe

PARAGRAPH = "\n\n"
"""Stands between two texts of parallel lists that have no image between them."""


class Misfit(Rejection):
    """A rejection because the record lacks fields of its schema: if all records are misfits, the schema is wrong."""


class _Unusable(Exception):
    """The reason why a record cannot be used."""


class _Missing(_Unusable):
    """A field of the schema is not there."""


def record_of(
    values: Mapping[str, Any], schema: Schema | None, place: str, where: str, sha256: bytes
) -> Record | Rejection:
    """The record in ``values``, laid out as ``schema`` says; ``place`` is its id when it has none of its own.

    ``schema`` None means that no layout was recognised.
    """
    if schema is None:
        reason = f"the layout is unknown: the record has {describe(values.keys())}"
        return Misfit("", where, f"{reason}; name its fields with --schema, such as text=FIELD")
    name = ""
    try:
        name = _id(values, schema) or place
        for field in schema.needed:
            if field not in values:
                raise _missing(field, values)
        images = _images(values, schema)
        if schema.texts:
            parts, images = _interleave(values[schema.texts], images)
        else:
            parts = _marked(values, schema, len(images))
        if not any(map(str.strip, parts)):
            raise _Unusable("the text is empty")
        return Record(name, _kind(values, schema, parts), tuple(parts), tuple(filter(None, images)), where, sha256)
    except _Missing as reason:
        return Misfit(name, where, str(reason)) if not schema.kind else Rejection(name, where, str(reason))
    except _Unusable as reason:
        return Rejection(name, where, str(reason))


def _id(values: Mapping[str, Any], schema: Schema) -> str:
    value = values.get(schema.id)
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not _string(value, schema.id):
        raise _Unusable(f"field {schema.id!r} is empty")
    return str(value)


def _kind(values: Mapping[str, Any], schema: Schema, parts: Sequence[str]) -> str:
    if schema.kind:
        kind = _string(values[schema.kind], schema.kind)
        if kind not in KINDS:
            raise _Unusable(f"kind {kind!r} is not one of {', '.join(KINDS)}")
        return kind
    if len(parts) == 1:
        return "text"
    return "caption" if len(parts) == 2 and not parts[0] and not schema.texts else "interleaved"


def _marked(values: Mapping[str, Any], schema: Schema, images: int) -> list[str]:
    """The segments of a text with image markers, or of a caption, which may leave its only marker out."""
    field = schema.text_field
    text = _string(values[field], field)
    parts = segments(text)
    if len(parts) == 1 and images == 1 and not schema.kind:
        return ["", text.lstrip()]
    if len(parts) - 1 != images:
        raise _Unusable(f"the text has {len(parts) - 1} {IMAGE_MARKER} markers but there are {images} images")
    return parts


def _interleave(texts: Any, images: Sequence[RawImage | None]) -> tuple[list[str], list[RawImage | None]]:
    """The segments and images of two parallel lists, where each position holds a text, an image or nothing."""
    if not isinstance(texts, Sequence) or isinstance(texts, str | bytes):
        raise _Unusable("the field of texts is not a list")
    if len(texts) != len(images):
        raise _Unusable(f"there are {len(texts)} texts but {len(images)} images; the lists must be parallel")
    found: list[list[str]] = [[]]
    for position, (text, image) in enumerate(zip(texts, images, strict=True)):
        if text is not None and image is not None:
            raise _Unusable(f"position {position} holds both a text and an image")
        if image is not None:
            found.append([])
        elif text is not None:
            found[-1].append(_string(text, f"texts[{position}]"))
    parts = [PARAGRAPH.join(texts) for texts in found]
    last = len(parts) - 1
    parts = [part.lstrip() if number else part for number, part in enumerate(parts)]
    return [part.rstrip() if number < last else part for number, part in enumerate(parts)], list(images)


def _images(values: Mapping[str, Any], schema: Schema) -> list[RawImage | None]:
    """The images; None where a parallel list has none. Raises when they are no paths or encoded images."""
    field = schema.image_field
    value = values.get(field) if field else None
    if value is None and not schema.texts:
        return []
    if schema.image:
        value = [value]
    elif not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise _Unusable(f"field {field!r} is not a list of paths or encoded images")
    return [None if one is None and schema.texts else _image(one, field, place) for place, one in enumerate(value)]


def _image(value: Any, field: str, place: int) -> RawImage:
    if isinstance(value, RawImage):
        return value
    if isinstance(value, bytes):
        return RawImage(f"{field}[{place}]", value)
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        # The path beside the bytes tells where they came from, it is not followed.
        return RawImage(f"{field}[{place}]", value["bytes"])
    if isinstance(value, Mapping):
        value = value.get("path")
    if not isinstance(value, str) or not _encodable(value):
        raise _Unusable(f"field {field!r} is not a list of paths or encoded images")
    if "://" in value:
        raise _Unusable(f"image {value!r} is a URL; fetch the images first and give their paths")
    if leaves_folder(value):
        raise _Unusable(f"image path {value!r} leaves the image folder; use a path relative to it")
    return RawImage(value, None)


def _string(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise _Unusable(f"field {field!r} is not a string")
    if not value.isascii() and not _encodable(value):
        raise _Unusable(f"field {field!r} holds half of a surrogate pair, which is no character")
    return value


def _missing(field: str, values: Mapping[str, Any]) -> _Missing:
    return _Missing(f"field {field!r} is missing; the record has {describe(values.keys())}")


def _encodable(text: str) -> bool:
    """Whether the text can be written as UTF-8; JSON escapes can spell strings that cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
