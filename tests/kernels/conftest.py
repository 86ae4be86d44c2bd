"""Puts kernels/ on the path and brings the CPU library up to date, so that the tests see what the sources say.

Without a C++ compiler nothing is built: the references serve, and the tests that compare with them say so and skip.
"""

import sys
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
sys.path.insert(0, str(KERNELS))

from build import PACKAGE, build  # noqa: E402 - found on the path that the line above makes

BUILT = build(PACKAGE, stems=("_cpu",))
