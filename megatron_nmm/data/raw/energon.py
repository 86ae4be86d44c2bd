"""Reads what a WebDataset prepared for Megatron-Energon says about itself in ``.nv-meta``: shards, split, fields.

Formats: Energon's documentation, "Dataset Format on Disk"; ``.info.yaml`` is what versions before 7 wrote. No code that
lies in the folder is run: a ``sample_loader.py`` is not read, ``--schema`` says the same.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from megatron_nmm.data.raw.opening import open_file
from megatron_nmm.data.raw.schema import ROLES, TEXT_ROLES, Schema
from megatron_nmm.errors import DataError

META = ".nv-meta"
TRAIN = "train"
INFO_FILES = (".info.json", ".info.yaml")
SPLIT_FILES = ("split.yaml", "split.json")
DATASET_FILE = "dataset.yaml"
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class Shard:
    """One tar of a prepared WebDataset."""

    path: str
    """Relative to the folder."""
    schema: Schema | None
    excluded: tuple[str, ...]
    """Keys of samples the split leaves out."""


def listed_shards(folder: str, part: str, exists: Callable[[str], bool]) -> list[Shard]:
    """The shards of ``part`` of the split (empty: train; all shards when there is no split), in the order listed.

    Raises DataError when a file of ``.nv-meta`` is damaged or the split has no such part.
    """
    meta = f"{folder.rstrip('/')}/{META}"

    def first_of(names: tuple[str, ...]) -> dict[str, Any] | None:
        paths = [f"{meta}/{name}" for name in names if exists(f"{meta}/{name}")]
        return _load(paths[0]) if paths else None

    info, split, dataset = first_of(INFO_FILES), first_of(SPLIT_FILES), first_of((DATASET_FILE,))
    if info is None and split is None:
        raise DataError(f"{meta} has neither {' nor '.join(INFO_FILES + SPLIT_FILES)}; prepare the folder again")
    if split is None:
        if part:
            raise DataError(f"{meta} has no split, so no part {part!r}; leave it out or prepare the folder again")
        split = {"split_parts": {TRAIN: list(_mapping(info or {}, "shard_counts", meta))}}
    parts = _mapping(split, "split_parts", meta)
    wanted = part or TRAIN
    if wanted not in parts:
        raise DataError(f"{meta} has no part {wanted!r} of the split; it has {', '.join(parts) or 'none'}")
    excluded = {name for given in split.get("exclude") or () for name in braces(str(given))}
    paths = [path for given in parts[wanted] or () for path in braces(str(given)) if path not in excluded]
    if not paths:
        raise DataError(f"{meta} lists no shard in part {wanted!r}; name another part as {folder}#PART")
    schema = _schema(dataset or {}, meta)
    return [
        Shard(path, schema, tuple(sorted(name[len(path) + 1 :] for name in excluded if name.startswith(f"{path}/"))))
        for path in paths
    ]


def braces(name: str) -> Iterator[str]:
    """``a{00..02}`` as a00, a01, a02 and ``{x,y}`` as x, y; the outermost are left to a second look."""
    found = _BRACES.search(name)
    if found is None:
        yield name
        return
    ends = _RANGE.fullmatch(found[1])
    if ends:
        width = len(ends[1]) if ends[1].startswith("0") else 0
        choices = [f"{number:0{width}d}" for number in range(int(ends[1]), int(ends[2]) + 1)]
    else:
        choices = found[1].split(",")
    for choice in choices:
        yield from braces(name[: found.start()] + choice + name[found.end() :])


def _schema(dataset: dict[str, Any], meta: str) -> Schema | None:
    """The schema of a ``field_map``; None when there is none that names a text."""
    given = dataset.get("field_map") or {}
    if not isinstance(given, dict):
        raise DataError(f"{meta}/{DATASET_FILE} is damaged (field_map is no mapping); prepare the folder again")
    # Energon separates alternatives by commas, which separate roles in a schema.
    chosen = {role: str(given[role]).replace(",", ";") for role in ROLES if role in given}
    return Schema(**chosen) if any(role in chosen for role in TEXT_ROLES) else None


def _mapping(values: dict[str, Any], key: str, meta: str) -> dict[str, Any]:
    found = values.get(key)
    if not isinstance(found, dict):
        raise DataError(f"{meta} is damaged: {key} is no mapping; prepare the folder again")
    return found


def _load(path: str) -> dict[str, Any]:
    """The mapping in a JSON or YAML file."""
    import yaml

    with open_file(path) as file:
        text = file.read()
    try:
        values = json.loads(text) if path.endswith(".json") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} is damaged ({' '.join(str(error).split())}); prepare the folder again") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} is damaged (no mapping); prepare the folder again")
    return values
