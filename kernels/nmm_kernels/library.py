"""Finds the two compiled libraries, loads what is there, and lets the references serve where nothing is.

PyTorch's dispatcher makes the choice: a library registers its operators for its own device, the references take the
rest, and no code asks which device a tensor is on.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from nmm_kernels.operator import Operator

FOLDER = Path(__file__).parent
LIBRARIES = {"CPU": "_cpu", "CUDA": "_cuda"}
"""Dispatch key -> stem of the library's file name, which build.py gives it."""

_kept: list[torch.library.Library] = []
"""A registration lasts as long as its handle."""
_serving: dict[str, str] = {}


def serving() -> dict[str, str]:
    """What serves each device: "CPU" and "CUDA" -> "library FILE", or "reference" with the reason."""
    return dict(_serving)


def register(operators: Sequence[Operator]) -> None:
    """Define ``operators`` under torch.ops.nmm and give each an implementation for every device."""
    library = torch.library.Library("nmm", "DEF")
    _kept.append(library)
    for operator in operators:
        library.define(operator.name + operator.schema)
        torch.library.register_fake(f"nmm::{operator.name}", operator.fake, lib=library)
        if operator.backward is not None:
            torch.library.register_autograd(
                f"nmm::{operator.name}", operator.backward, setup_context=operator.setup_context, lib=library
            )
    for key, stem in LIBRARIES.items():
        _serving[key] = _load(key, stem)
        _fill(library, key, operators)
    _say()


def _load(key: str, stem: str) -> str:
    """Load the library of one device and say what serves it."""
    found = sorted(FOLDER.glob(f"{stem}.*so"))
    if not found:
        return "reference: no library is built"
    if key == "CUDA" and torch.version.cuda is None:
        return f"reference: {found[0].name} needs a PyTorch with CUDA"
    try:
        torch.ops.load_library(found[0])
    except OSError as error:
        return f"reference: {found[0].name} does not load ({error})"
    return f"library {found[0].name}"


def _fill(library: torch.library.Library, key: str, operators: Sequence[Operator]) -> None:
    """Give the reference of every operator that the loaded library does not bring."""
    missing = [
        operator
        for operator in operators
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"nmm::{operator.name}", key)
    ]
    for operator in missing:
        library.impl(operator.name, operator.reference, key)
    if missing and _serving[key].startswith("library"):
        names = ", ".join(operator.name for operator in missing)
        _serving[key] += f", reference for {names}: the library is older than this package"


def _say() -> None:
    """Warn once, as the package is imported, where this machine's devices are served by references."""
    devices = ["CPU", *(["CUDA"] if torch.cuda.is_available() else [])]
    slow = [f"{key}: {_serving[key]}" for key in devices if "reference" in _serving[key]]
    if slow:
        warnings.warn(
            f"nmm_kernels runs on plain PyTorch, correct but slower ({'; '.join(slow)}); build the library with"
            " python kernels/build.py, or pip install ./kernels where a compiler is",
            RuntimeWarning,
            stacklevel=3,
        )
