"""Fits as a file: ``fit.json`` beside the manifest, read back to the same values bit for bit."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_nmm.errors import DataError
from megatron_nmm.files import durable
from megatron_nmm.scaling.law import Fitted, Interval, Law, Quality

NAME = "fit.json"


def write(path: Path, fits: Sequence[Fitted]) -> None:
    """Write ``fits``, whole or not at all; an earlier file stays until then. Raises OSError when the disk refuses."""
    text = json.dumps([asdict(one) for one in fits], indent=1, allow_nan=False, ensure_ascii=False)
    durable.replace(path, (text + "\n").encode())


def read(path: Path) -> tuple[Fitted, ...]:
    """The fits of ``path``, a file or a folder with ``fit.json``; raises DataError when it holds none."""
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"{path} does not exist; tools/fit.py --study FOLDER writes it")
    try:
        return tuple(_fitted(record) for record in json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError) as fault:
        raise DataError(f"{path} is not a file of fits ({fault}); write it again with tools/fit.py") from fault


def _fitted(record: Mapping[str, Any]) -> Fitted:
    fields = dict(record)
    fields["law"] = Law(**fields["law"])
    fields["quality"] = Quality(**fields["quality"])
    fields["held_out"] = Quality(**fields["held_out"]) if fields["held_out"] else None
    fields["intervals"] = {name: Interval(**one) for name, one in fields["intervals"].items()}
    fields["samples"] = tuple(Law(**one) for one in fields.get("samples", ()))
    fields["ranges"] = {name: (low, high) for name, (low, high) in fields.get("ranges", {}).items()}
    fields.setdefault("total", (1.0, 0.0))
    for name in ("encoder", "warnings", "outliers", "runs", "total"):
        fields[name] = tuple(fields[name])
    return Fitted(**fields)
