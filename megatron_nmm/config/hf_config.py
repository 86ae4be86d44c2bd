"""The config.json of a Hugging Face folder against a run: every value that differs, with the --set that fixes it.

Which values a folder fixes stands in tables (hf_language.py, hf_vision.py). JSON alone is read, so that ``--check``
answers before torch is loaded; the weights are compared when they are read.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_nmm.config.fault import Fault, either
from megatron_nmm.config.schema import RunConfig
from megatron_nmm.config.schema_model import ModelConfig
from megatron_nmm.config.values import read_json

NAME = "config.json"
Raw = Mapping[str, Any]
"""A config.json as parsed."""
UNUSABLE = (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError)
"""What reading a value can raise when config.json lacks it or holds another kind of thing."""


@dataclass(frozen=True)
class Setting:
    """One value of the model that a folder fixes."""

    key: str
    """Below ``model``, e.g. ``vision.depth``."""
    theirs: Callable[[Raw], Any]
    """From config.json."""
    ours: Callable[[ModelConfig], Any] | None = None
    """From the run, where the value is derived; None = the value at ``key``."""
    fits: Callable[[Any, Any], bool] = lambda ours, theirs: bool(ours == theirs)
    """Whether (ours, theirs) go together."""


@dataclass(frozen=True)
class Refusal:
    """Something in a folder that no setting of ours stands for."""

    found: Callable[[Raw, RunConfig], str | None]
    """What it is, with its value; None when it is not there."""
    remedy: str


@dataclass(frozen=True)
class Kind:
    """What one ``model_type`` fixes and what in it is refused."""

    settings: Sequence[Setting]
    refusals: Sequence[Refusal] = ()


def folder_faults(
    run: RunConfig, key: str, place: str, kinds: Mapping[str, Kind], nearly: Mapping[str, str]
) -> Iterator[Fault]:
    """What keeps ``place`` (the value of ``key``, e.g. ``init.language_model``) from filling the model of ``run``.

    ``kinds`` are the supported model types; any other is refused by its name, and with the reason if it is one of
    ``nearly`` (beginning of a type -> why not).
    """
    try:
        raw = read(Path(place))
    except ValueError as fault:
        remedy = f"set {key} to a folder as save_pretrained writes it, with config.json and *.safetensors"
        yield Fault(key, f"{key} {place} {fault}", remedy)
        return
    kind = kinds.get(str(raw.get("model_type")))
    if kind is None:
        name = raw.get("model_type")
        why = next((f": {reason}" for start, reason in nearly.items() if str(name).startswith(start)), "")
        fact = f"{key} {place} holds a model of type {name!r}, which cannot be loaded{why}"
        yield Fault(key, fact, f"use a folder of model type {either(sorted(kinds))}")
        return
    for refusal in kind.refusals:
        if (found := _found(refusal, raw, run)) is not None:
            yield Fault(key, f"{key} {place} {found}", refusal.remedy)
    for setting in kind.settings:
        yield from _setting_faults(run.model, setting, raw, f"{key} {place}")


def read(folder: Path) -> Raw:
    """The config.json in ``folder``. Raises ValueError that says what is wrong, to stand after the folder's name."""
    try:
        raw = read_json((folder / NAME).read_text(encoding="utf-8"))
    except OSError as fault:
        raise ValueError(f"has no readable {NAME} ({fault.strerror})") from None
    except ValueError as fault:
        raise ValueError(f"has a damaged {NAME} ({fault})") from None
    if not isinstance(raw, dict):
        raise ValueError(f"has a {NAME} that is no JSON object")
    return raw


def _found(refusal: Refusal, raw: Raw, run: RunConfig) -> str | None:
    try:
        return refusal.found(raw, run)
    except UNUSABLE as fault:
        return f"has a {NAME} that makes no sense here ({type(fault).__name__}: {fault})"


def _setting_faults(model: ModelConfig, setting: Setting, raw: Raw, where: str) -> Iterator[Fault]:
    key = f"model.{setting.key}"
    ours = _at(model, setting.key) if setting.ours is None else setting.ours(model)
    try:
        theirs = setting.theirs(raw)
        fits = setting.fits(ours, theirs)
    except UNUSABLE as fault:
        fact = f"{where} has a {NAME} that does not say {key} ({type(fault).__name__}: {fault})"
        yield Fault(key, fact, f"complete {NAME}")
        return
    if not fits:
        yield Fault(key, f"{key} is {_text(ours)}, {where} has {_text(theirs)}", f"use --set {key}={_text(theirs)}")


def _at(model: ModelConfig, key: str) -> Any:
    value: Any = model
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _text(value: Any) -> str:
    """As ``--set`` reads it."""
    return value if isinstance(value, str) else json.dumps(value)
