"""The resolved configuration as a JSON file beside the run, from which the run can be started again.

The file holds ``{"format_version": 1, "run": {...}}`` with every key of the tree, so that it does not depend on the
defaults of the version that reads it. Floats round-trip exactly.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_nmm.config.fault import config_error
from megatron_nmm.config.schema import RunConfig
from megatron_nmm.config.values import from_json, read_json
from megatron_nmm.errors import ConfigError
from megatron_nmm.files import durable

FORMAT_VERSION = 1
"""Raised when a file of an earlier version can no longer be read."""


def to_dict(run: RunConfig) -> dict[str, Any]:
    """The tree as nested dicts and lists, ready for JSON."""
    tree: dict[str, Any] = json.loads(json.dumps(asdict(run)))
    return tree


def from_dict(tree: dict[str, Any], where: str = "the configuration") -> RunConfig:
    """The run of a complete tree; ConfigError lists every unknown, missing or ill-typed key. ``where`` names it."""
    faults: list[str] = []
    run = from_json(RunConfig, tree, "", faults, complete=True)
    if faults:
        raise config_error(where, faults)
    assert isinstance(run, RunConfig), "from_json returns what it was asked for when it reports no fault"
    return run


def to_json(run: RunConfig) -> str:
    """The text of the file; ConfigError when a value is not finite, for JSON has no such numbers."""
    try:
        return json.dumps({"format_version": FORMAT_VERSION, "run": asdict(run)}, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the configuration cannot be written as JSON: {error}; run with --check to see which"
        ) from None


def save(run: RunConfig, path: str | Path) -> None:
    """Write ``run`` to ``path``, whole or not at all: an earlier file stays until the new one is on disk."""
    path = Path(path)
    text = to_json(run)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.replace(path, text.encode())
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}; make room or choose a folder you may write, --set folder=PATH"
        ) from None


def load(path: str | Path) -> RunConfig:
    """The run saved at ``path``; ConfigError names what the file lacks, has too much, or holds of the wrong kind."""
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; use {path / 'config.json'}")
    try:
        file = read_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; use the config.json of a run's folder") from None
    except ValueError as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ConfigError(f"{path} is damaged: {reason}; use the config.json of a run's folder") from None
    if not isinstance(file, dict) or file.keys() != {"format_version", "run"}:
        raise ConfigError(
            f"{path} is not a saved run: it needs the keys format_version and run; use a run's config.json"
        )
    if file["format_version"] != FORMAT_VERSION:
        raise ConfigError(
            f"{path} has format_version {file['format_version']!r} and this version reads {FORMAT_VERSION}; "
            "use the version of this package that wrote it"
        )
    return from_dict(file["run"], str(path))
