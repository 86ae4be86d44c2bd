"""``--set KEY=VALUE``: a new run with some values replaced, typed by the annotation of the field they name."""

from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from typing import Any

from megatron_nmm.config.fault import config_error
from megatron_nmm.config.schema import RunConfig
from megatron_nmm.config.values import annotations, describe, from_text, item, leaves, nearest_key


def apply(run: RunConfig, changes: Sequence[str]) -> RunConfig:
    """``run`` with ``changes`` made in order, each ``dotted.key=value``; a later change of a key wins.

    Raises ConfigError that lists every change that names no key or does not fit its field.
    """
    faults: list[str] = []
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            faults.append(f"--set {change} has no '='; write --set KEY=VALUE")
            continue
        try:
            run = _replaced(RunConfig, run, key.strip().split("."), text, ())
        except _Refused as refused:
            faults.append(str(refused))
        except KeyError:
            nearest = nearest_key(key.strip(), _keys(run))
            faults.append(f"{key.strip()} is not a key; the nearest key is {nearest} (--print shows them all)")
    if faults:
        raise config_error("--set", faults)
    return run


class _Refused(Exception):
    """A change whose key exists and whose value or depth does not fit."""


def _replaced(annotation: Any, value: Any, path: Sequence[str], text: str, walked: tuple[str, ...]) -> Any:
    """``value`` with the leaf at ``path`` read from ``text``; KeyError when the path leaves the tree."""
    here = ".".join(walked)
    if not path:
        return _leaf(annotation, text, here)
    name, rest, walked = path[0], path[1:], (*walked, path[0])
    if is_dataclass(annotation):
        inner = annotations(annotation)[name]  # type: ignore[arg-type]
        return replace(value, **{name: _replaced(inner, getattr(value, name), rest, text, walked)})
    if entry := item(annotation):
        if not (name.isascii() and name.isdecimal() and int(name) < len(value)):
            raise _Refused(f"{'.'.join(walked)} is no entry: {here} {_range(entry, len(value))}")
        index = int(name)
        return (*value[:index], _replaced(entry, value[index], rest, text, walked), *value[index + 1 :])
    raise KeyError(name)


def _leaf(annotation: Any, text: str, key: str) -> Any:
    """The value of one field; a group is refused, so that a change never resets keys it does not name."""
    if is_dataclass(annotation):
        first = next(iter(annotations(annotation)))  # type: ignore[arg-type]
        raise _Refused(f"{key} is a group of keys; set one of them, e.g. {key}.{first}")
    try:
        return from_text(annotation, text, key)
    except ValueError as error:
        reason = f" ({error})" if item(annotation) else ""
        raise _Refused(f"{key}={text} does not fit; {key} expects {describe(annotation)}{reason}") from None


def _range(entry: type, entries: int) -> str:
    """Which indices a list of ``entry`` has."""
    if entries == 0:
        example = "[1, 2]" if entry is int else '[{"corpus": "..."}]'
        return f"is empty; set it as a whole in JSON, {example}"
    return "has one entry; use index 0" if entries == 1 else f"has {entries} entries; use an index below {entries}"


def _keys(run: RunConfig) -> list[str]:
    """Every dotted key of ``run``, groups and lists included."""
    parts = [key.split(".") for key, _, _ in leaves(RunConfig, run)]
    return list(dict.fromkeys(".".join(p[: depth + 1]) for p in parts for depth in range(len(p))))
