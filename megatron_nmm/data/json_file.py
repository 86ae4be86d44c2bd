"""The JSON files of a corpus and a pack plan: replaced in one step, and read with a remedy for what may be wrong."""

import json
from pathlib import Path
from typing import Any

from megatron_nmm.errors import DataError
from megatron_nmm.files import durable


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Replace ``path`` by these values, whole or not at all."""
    durable.replace(path, f"{json.dumps(values, indent=2, ensure_ascii=False)}\n".encode())


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in ``path``; raises DataError with ``remedy`` when it is missing or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; {remedy}") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); {remedy}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} is damaged (not a JSON object); {remedy}")
    return values
