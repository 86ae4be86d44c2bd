"""Reads a WebDataset: members of a tar that share a key are one sample, told apart by what follows the key.

The key is a member's path up to the first dot of its base name, and samples stand one after the other, as in the
webdataset library.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from megatron_nmm.data.raw.build import Misfit, record_of
from megatron_nmm.data.raw.opening import Chunks, CutStream
from megatron_nmm.data.raw.record import KINDS, RawImage, Record, Rejection, leaves_folder, printable
from megatron_nmm.data.raw.schema import Schema, describe, detect
from megatron_nmm.data.raw.tar import Member, members

IMAGE_PARTS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"})
TEXT_PARTS = {"txt": "text", "text": "text", "caption": "caption"}
"""Part of a sample -> the field it stands for."""
_KEY = re.compile(r"((?:.*/)?[^./][^/.]*)\.([^/]*)", re.DOTALL)
_ACCESS = re.compile(r"([^\[\]]+)((?:\[[^\[\]]+\])*)")


@dataclass
class _Sample:
    """The members of one key so far."""

    key: str
    done: int = 0
    parts: dict[str, Member] = field(default_factory=dict)
    fault: str = ""


class _Unreadable(Exception):
    """Why a part of a sample cannot be used."""


class _Missing(_Unreadable):
    """A field of the schema is not there."""


def read_webdataset(
    chunks: Chunks, label: str, schema: Schema | None, excluded: frozenset[str]
) -> Iterator[tuple[int, Record | Rejection]]:
    """(bytes of the file read so far, record or rejection) for every key of a tar, and for members that have none."""
    sample: _Sample | None = None
    try:
        for member in members(chunks):
            found = _KEY.fullmatch(member.name)
            if found is None:
                fault = member.fault or "a name without a key: nothing before the first dot, or no dot"
                yield member.done, Rejection("", f"{label}:{printable(member.name)}", f"the member is {fault}")
                continue
            if sample is None or sample.key != found[1]:
                if sample is not None:
                    yield sample.done, _record(sample, label, schema, excluded)
                sample = _Sample(found[1])
            _add(sample, found[2].lower(), member)
        if sample is not None:
            yield sample.done, _record(sample, label, schema, excluded)
    except CutStream as cut:
        where = f"{label}:{printable(sample.key)}" if sample else label
        reason = f"{cut}; the samples before are kept, this one may be incomplete: fetch the file again"
        yield sample.done if sample else 0, Rejection("", where, reason)


def _add(sample: _Sample, part: str, member: Member) -> None:
    """Put the member into its sample; a fault of one member is a fault of the sample."""
    sample.done = member.done
    name = printable(member.name)
    if member.fault:
        sample.fault = sample.fault or f"member {name!r} is {member.fault}"
    elif leaves_folder(member.name):
        sample.fault = sample.fault or f"member {name!r} leaves its folder; store it under a relative path without .."
    elif part in sample.parts:
        sample.fault = sample.fault or f"there are two members {name!r}"
    else:
        sample.parts[part] = member


def _record(sample: _Sample, label: str, schema: Schema | None, excluded: frozenset[str]) -> Record | Rejection:
    where = f"{label}:{printable(sample.key)}"
    if sample.key in excluded:
        return Rejection("", where, "the split of the dataset excludes it")
    if sample.fault:
        return Rejection("", where, sample.fault)
    digest = hashlib.sha256()
    for part, member in sample.parts.items():
        digest.update(f"{part}\0{len(member.data)}\0".encode("utf-8", "surrogateescape"))
        digest.update(member.data)
    try:
        read = _fields(sample.parts)
        if schema is None:
            values = _by_default(sample.parts, read)
            schema = detect(values.keys())
        else:
            values = _by_schema(sample.parts, read, schema)
    except _Missing as fault:
        return Misfit("", where, str(fault))
    except _Unreadable as fault:
        return Rejection("", where, str(fault))
    return record_of(values, schema, where, where, digest.digest())


def _fields(parts: Mapping[str, Member]) -> dict[str, Any]:
    """The values of all parts: parsed JSON, texts, images by name."""
    return {part: _value(part, member) for part, member in parts.items()}


def _value(part: str, member: Member) -> Any:
    ending, name = part.rpartition(".")[2], printable(member.name)
    if ending in IMAGE_PARTS:
        return RawImage(name, member.data)
    try:
        if ending == "json":
            return json.loads(member.data.decode())
        return member.data.decode().strip() if ending in TEXT_PARTS else member.data
    except UnicodeDecodeError as error:
        raise _Unreadable(f"member {name!r} is not UTF-8 at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise _Unreadable(f"member {name!r} is broken JSON: {error}") from error


def _by_default(parts: Mapping[str, Member], read: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as :data:`LAYOUTS` of the schema know them: those of the JSON member, the text and the images."""
    values: dict[str, Any] = {}
    for part in parts:
        if part.rpartition(".")[2] == "json":
            if not isinstance(read[part], dict):
                raise _Unreadable(
                    f"member {printable(parts[part].name)!r} is a JSON {type(read[part]).__name__}, not an object"
                )
            values |= read[part]
    if values.get("kind") not in KINDS:
        values.pop("kind", None)
    texts = [part for part in parts if part in TEXT_PARTS]
    if texts:
        # Beside a text member, the JSON member describes the sample.
        for name in ("text", "caption", "texts"):
            values.pop(name, None)
        values[TEXT_PARTS[texts[0]]] = read[texts[0]]
    images = [read[part] for part in parts if isinstance(read[part], RawImage)]
    named = values.get("images")
    if images and isinstance(named, list) and any(isinstance(name, str) for name in named):
        values["images"] = [_named(name, parts, read) for name in named]
    elif images:
        values.pop("image", None)
        values["images"] = images
    return values


def _named(name: Any, parts: Mapping[str, Member], read: Mapping[str, Any]) -> Any:
    """The image member a JSON member names by its part or its whole name; anything else as it is."""
    for part, member in parts.items():
        if name in (part, member.name, member.name.rpartition("/")[2]):
            return read[part]
    return name


def _by_schema(parts: Mapping[str, Member], read: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """The fields the schema names, under those names; raises when one that is needed is not there."""
    values = {}
    for place in schema.to_json().values():
        for option in place.split(";"):
            found = _lookup(option.strip(), read)
            if found is not None:
                values[place] = found
                break
        else:
            if place in schema.needed:
                there = set(read) | {
                    f"{part}[{key}]" for part in read if isinstance(read[part], dict) for key in read[part]
                }
                raise _Missing(f"field {place!r} is missing; the sample has {describe(there)}")
    images = values.get(schema.images)
    if isinstance(images, RawImage):
        values[schema.images] = [images]
    elif isinstance(images, list):
        values[schema.images] = [_named(name, parts, read) for name in images]
    return values


def _lookup(option: str, read: Mapping[str, Any]) -> Any:
    """``txt``, ``json[caption]``, ``json[a][b]``, or the name of a field of the JSON member; None if not there."""
    found = _ACCESS.fullmatch(option)
    if found is None:
        return None
    if found[1] in read:
        value = read[found[1]]
    else:
        value = next(
            (read[part][found[1]] for part in read if isinstance(read[part], dict) and found[1] in read[part]), None
        )
    for key in re.findall(r"\[([^\[\]]+)\]", found[2]):
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value
