"""What a field's annotation accepts: values read from text and from JSON, checked, described and walked.

The annotations of schema.py are all that is supported: bool, int, float, str, Literal, ``X | None``, a nested
dataclass, and ``tuple[int, ...]`` or ``tuple[dataclass, ...]``.
"""

import difflib
import json
import math
import types
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from megatron_nmm.config.fault import either

INTEGER_LIMIT = 2**63
"""Integers beyond 64 bits are typing mistakes, and no tensor could hold them."""

WORDS = {bool: "true or false", int: "an integer", float: "a finite number", str: "text"}
TRUTH = {"true": True, "1": True, "false": False, "0": False}


@cache
def annotations(config: type) -> dict[str, Any]:
    """Field name -> annotation of a config dataclass, in declaration order."""
    hints = get_type_hints(config)
    return {f.name: hints[f.name] for f in fields(config)}


def optional(annotation: Any) -> Any | None:
    """X of ``X | None``; None for every other annotation."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return None
    return next(inner for inner in get_args(annotation) if inner is not type(None))


def item(annotation: Any) -> type | None:
    """X of ``tuple[X, ...]``; None for every other annotation."""
    return get_args(annotation)[0] if get_origin(annotation) is tuple else None


def describe(annotation: Any) -> str:
    """What the annotation accepts, for a message: ``expects <this>``."""
    if inner := optional(annotation):
        return f"{describe(inner)}, or none"
    if get_origin(annotation) is Literal:
        return either(get_args(annotation))
    if item(annotation) is int:
        return "a list of integers, in JSON: [1, 2, ...]"
    if entry := item(annotation):
        return f"a list of {entry.__name__}, in JSON: [{{{', '.join(json.dumps(k) for k in annotations(entry))}}}, ...]"
    if is_dataclass(annotation):
        return f"a group with the keys {', '.join(annotations(annotation))}"  # type: ignore[arg-type]
    return WORDS[annotation]


def accepts(annotation: Any, value: object) -> bool:
    """Whether ``value`` may stand in a field of this annotation; an int may stand in a float field, a bool may not."""
    if inner := optional(annotation):
        return value is None or accepts(inner, value)
    if get_origin(annotation) is Literal:
        return isinstance(value, str) and value in get_args(annotation)
    if entry := item(annotation):
        return isinstance(value, tuple) and all(accepts(entry, v) for v in value)
    if annotation is int:
        return type(value) is int and -INTEGER_LIMIT <= value < INTEGER_LIMIT
    if annotation is float:
        return (type(value) is float and math.isfinite(value)) or accepts(int, value)
    return isinstance(value, annotation)


def leaves(annotation: Any, value: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, annotation, value) of every leaf; a group or list of the wrong type counts as one leaf."""
    if is_dataclass(annotation) and accepts(annotation, value):
        for name, inner in annotations(annotation).items():  # type: ignore[arg-type]
            yield from leaves(inner, getattr(value, name), f"{key}.{name}" if key else name)
    elif (entry := item(annotation)) and accepts(annotation, value) and value:
        for index, one in enumerate(value):
            yield from leaves(entry, one, f"{key}.{index}")
    else:
        yield key, annotation, value


def nearest_key(unknown: str, known: Iterable[str]) -> str:
    """The known dotted key most like ``unknown``; the last part alone counts almost as much as the whole."""

    unknown = unknown.lower()

    def likeness(key: str) -> float:
        last, unknown_last = key.rpartition(".")[2], unknown.rpartition(".")[2]
        whole = difflib.SequenceMatcher(None, unknown, key).ratio()
        # "lr" is how many people write learning_rate.
        short = unknown_last == "".join(word[0] for word in last.split("_"))
        end = 1.0 if short else difflib.SequenceMatcher(None, unknown_last, last).ratio()
        return max(whole, 0.9 * end) + 0.01 * whole

    return max(known, key=likeness)


def from_text(annotation: Any, text: str, key: str) -> Any:
    """The value that ``text`` of a ``--set`` of ``key`` stands for; ValueError when the annotation refuses it."""
    word = text.strip()
    if inner := optional(annotation):
        return None if word.lower() in ("none", "null") else from_text(inner, text, key)
    if item(annotation):
        faults: list[str] = []
        value = from_json(annotation, read_json(text), key, faults, complete=False)
        if faults:
            raise ValueError("; ".join(faults))
        return value
    if annotation is bool:
        value = TRUTH.get(word.lower())
    elif annotation is int:
        value = integer(word)
    elif annotation is float:
        value = float(word)
    else:
        value = word if get_origin(annotation) is Literal else text
    if not accepts(annotation, value):
        raise ValueError(f"{text!r} is not accepted")
    return value


def integer(word: str) -> int:
    """``8``, ``50_432`` and ``1e3``; ValueError for anything that is not a whole number of at most 64 bits."""
    try:
        number = Decimal(word)
    except InvalidOperation:
        raise ValueError(f"{word!r} is not a number") from None
    # The size comes before the conversion: int(Decimal("1e999999999")) would fill the memory.
    if not number.is_finite() or not -INTEGER_LIMIT <= number < INTEGER_LIMIT or number != number.to_integral_value():
        raise ValueError(f"{word!r} is not a whole number of 64 bits")
    return int(number)


def read_json(text: str) -> Any:
    """Strict JSON: ValueError for NaN, Infinity, a key that stands twice, and nesting without end."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        group: dict[str, Any] = {}
        for name, value in pairs:
            if name in group:
                raise ValueError(f"the key {name!r} stands twice in one group; keep one")
            group[name] = value
        return group

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a finite number")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ValueError("not valid JSON: nested too deeply") from None


def from_json(annotation: Any, raw: Any, key: str, faults: list[str], *, complete: bool) -> Any:
    """The value that parsed JSON stands for; appends to ``faults`` what does not fit and then returns anything.

    ``complete`` demands every key, as in a saved run; otherwise a missing key takes its default.
    """
    if is_dataclass(annotation) and isinstance(raw, dict):
        return group_from_json(annotation, raw, key, faults, complete=complete)  # type: ignore[arg-type]
    if (entry := item(annotation)) and isinstance(raw, list | tuple):
        return tuple(
            from_json(entry, one, f"{key}.{index}", faults, complete=complete) for index, one in enumerate(raw)
        )
    inner = optional(annotation) or annotation
    if inner is float and accepts(int, raw):
        return float(raw)
    if inner is int and type(raw) is float and raw.is_integer():
        raw = int(raw)
    if not accepts(annotation, raw):
        faults.append(
            f"{key or 'run'} {json.dumps(raw, default=str)} is of the wrong kind; it expects {describe(annotation)}"
        )
    return raw


def group_from_json(config: type, raw: dict[str, Any], key: str, faults: list[str], *, complete: bool) -> Any:
    """A dataclass from a JSON object; unknown and missing keys become faults that name the nearest key."""
    known = annotations(config)
    prefix = f"{key}." if key else ""
    before = len(faults)
    defaults = config()
    for name in sorted(raw.keys() - known.keys()):
        faults.append(f"{prefix}{name} is not a key; the nearest key is {prefix}{nearest_key(name, known)}")
    for name in (name for name in known if complete and name not in raw):
        default = getattr(defaults, name)
        hint = "" if is_dataclass(default) else f"; this version's default is {json.dumps(default)}"
        faults.append(f"{prefix}{name} is missing; add it{hint}")
    values = {
        name: from_json(known[name], raw[name], f"{prefix}{name}", faults, complete=complete)
        for name in known
        if name in raw
    }
    return config(**values) if len(faults) == before else None
