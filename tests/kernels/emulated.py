"""The CUDA operators as CPU operators: the binding and the kernels, compiled by g++ with the emulator, under
``torch.ops.nmm_emulated``. Schemas are taken from nmm_kernels, so both namespaces always agree.
"""

import ctypes
from pathlib import Path

import nmm_kernels
import torch
from build import Torch

from tests.kernels.toolchain import CSRC, emulator_flags, made

ORDERS = {"forward": 0, "backward": 1, "shuffled": 2}
"""Orders in which the emulator runs blocks and threads; the numbers are launch.h's."""
SANITIZERS = (
    "-g1",
    "-fsanitize=address,alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero",
    "-fno-sanitize-recover=all",
)
"""What a kernel can do wrong; the rest of UBSan's checks would double the time to compile."""

_kept: list[torch.library.Library] = []
"""A registration lasts as long as its handle."""


def emulated_library(*flags: str) -> Path:
    """Compile the test library with g++."""
    found = Torch.find()
    source = ["-x", "c++", str(CSRC / "cuda_library.cu"), "-x", "none", *found.link_flags("torch_cpu")]
    command = emulator_flags("-O1", "-shared", "-fPIC", "-fvisibility=hidden", *flags, *found.compile_flags)
    return made("emulated_sanitized" if flags else "emulated", [*command, *source, "-o"])[0]


def load(path: Path) -> ctypes.CDLL:
    """Define the operators, load their kernels, and return the handle that sets the order of threads."""
    library = torch.library.Library("nmm_emulated", "DEF")
    _kept.append(library)
    for operator in nmm_kernels.OPERATORS:
        library.define(operator.name + operator.schema)
    torch.ops.load_library(path)
    return ctypes.CDLL(str(path))
