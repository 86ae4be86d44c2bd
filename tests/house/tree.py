"""The files of this repository that the house rules look at."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "megatron_nmm"

CODE_FOLDERS = ("megatron_nmm", "tools", "examples", "tests", "kernels")
NOT_OURS = frozenset({"build", "dist", "runs", "__pycache__"})
"""Folder names that hold output, never source; hidden folders other than .ci are left out too."""


def files(folder: Path, *suffixes: str) -> list[Path]:
    """Source files under ``folder`` in order of path; every suffix when none is given."""
    return sorted(path for path in _walk(folder) if not suffixes or path.suffix in suffixes)


def code(*suffixes: str) -> list[Path]:
    """Source files of the code folders, plus setup.py at the root."""
    found = [path for name in CODE_FOLDERS if (ROOT / name).is_dir() for path in files(ROOT / name, *suffixes)]
    return found + [path for path in (ROOT / "setup.py",) if path.suffix in suffixes]


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        ours = path.name not in NOT_OURS and not path.name.endswith(".egg-info")
        if path.is_dir() and ours and (not path.name.startswith(".") or path.name == ".ci"):
            yield from _walk(path)
        elif path.is_file():
            yield path
