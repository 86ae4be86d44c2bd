"""Puts kernels/ on the path and brings the CPU library up to date, so that the tests see what the sources say.

Without a C++ compiler nothing is built: the references serve, and the tests that compare with them say so and skip.
"""

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
sys.path.insert(0, str(KERNELS))

from build import PACKAGE, build  # noqa: E402 - found on the path that the line above makes


@contextmanager
def one_process(name: str) -> Iterator[None]:
    """Of processes that test side by side the first makes ``name`` inside the block, and the second finds it made."""
    (KERNELS / "build").mkdir(exist_ok=True)
    with (KERNELS / "build" / f"{name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


with one_process("library"):
    BUILT = build(PACKAGE, stems=("_cpu",))
