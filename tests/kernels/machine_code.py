"""What nvcc made of the kernels: registers, shared memory and instructions of each, per architecture.

Read with NVIDIA's cuobjdump and nvdisasm, from PATH, the toolkit, or Triton, which brings them in its wheel.
"""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from build import ARCHITECTURES

from tests.kernels.conftest import KERNELS
from tests.kernels.toolchain import EMULATOR, emulator_flags, made, toolkit

STRICT = "nvcc -Xptxas=-v,-warn-spills,-warn-lmem-usage -Werror all-warnings"
"""nvcc, for which a spilled register, a use of local memory, or any other warning is an error."""
NO_TOOLS = "cuobjdump and nvdisasm are not installed (wheels nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm, or triton)"
THREADS = 256
"""Threads of a block; kernels that are started with fewer reach at most the occupancy of this."""


@dataclass(frozen=True)
class Kernel:
    """One kernel's machine code for one architecture."""

    name: str
    architecture: str
    registers: int
    stack: int
    shared: int
    instructions: frozenset[str]
    """Names with their modifiers, such as LDG.E.128.CONSTANT."""

    @property
    def family(self) -> str:
        """The name without template arguments."""
        return self.name.split("<")[0]

    @property
    def moves_vectors(self) -> bool:
        """Whether this instance is for rows that take 128-bit accesses."""
        return "<uint4>" in self.name or self.name.endswith((", true>", ", 8>", "<float, 4>", "<double, 2>"))


def disassembler() -> dict[str, str] | None:
    """Environment in which cuobjdump finds nvdisasm, or None where they are missing."""
    triton = importlib.util.find_spec("triton")
    places = [str(Path(str(triton.origin)).parent / "backends" / "nvidia" / "bin")] if triton else []
    path = os.pathsep.join([os.environ.get("PATH", ""), f"{toolkit()}/bin", *places])
    found = shutil.which("cuobjdump", path=path) and shutil.which("nvdisasm", path=path)
    return {**os.environ, "PATH": path} if found else None


def cuda_library() -> Path:
    """The CUDA library as build.py makes it, by an nvcc that takes no warning."""
    code = (
        "import sys, pathlib, tempfile; from build import build_cuda;"
        "build_cuda(pathlib.Path(sys.argv[1]), pathlib.Path(tempfile.mkdtemp()), True)"
    )
    environment = {"NVCC": STRICT, "PYTHONPATH": str(KERNELS)}
    return made("cuda_library", [sys.executable, "-c", code], environment)[0]


def dump(*options: str) -> str:
    """What cuobjdump says about the library, with C++ names as they are written."""
    environment = disassembler()
    assert environment is not None, NO_TOOLS
    command = [str(shutil.which("cuobjdump", path=environment["PATH"])), *options, str(cuda_library())]
    text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return subprocess.run(["c++filt"], input=text, capture_output=True, text=True, check=True).stdout


def short(name: str) -> str:
    """``void nmm::cuda::combine_kernel<float, 4>(float const*, ...)`` -> ``combine_kernel<float, 4>``."""
    return re.sub(r"^void ", "", name.split("(")[0]).replace("nmm::cuda::", "").strip().rstrip(":")


@functools.cache
def kernels() -> tuple[Kernel, ...]:
    """Every kernel of the library for every architecture."""
    instructions = {
        (architecture, short(part.split("\n")[0])): frozenset(
            re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", part, re.MULTILINE)
        )
        for architecture in ARCHITECTURES
        for part in dump("-sass", "-arch", f"sm_{architecture}").split("Function : ")[1:]
    }
    found = []
    for part in re.split(r"^arch = sm_", dump("-res-usage"), flags=re.MULTILINE)[1:]:
        architecture = part.split("\n")[0].strip()
        for name, usage in re.findall(r"Function (.+):\n\s+(REG:.+)", part):
            used = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", usage)}
            code = instructions[architecture, short(name)]
            found.append(Kernel(short(name), architecture, used["REG"], used["STACK"], used["SHARED"], code))
    return tuple(found)


def occupancies() -> list[int]:
    """Percent of a multiprocessor's threads, for each of ``kernels()``."""
    command = [*emulator_flags("-w"), str(EMULATOR / "occupancy.cpp"), "-o"]
    lines = "".join(f"{one.architecture} {one.registers} {one.shared} {THREADS}\n" for one in kernels())
    program = str(made("occupancy", command)[0])
    ran = subprocess.run([program], input=lines, capture_output=True, text=True, check=True)
    return [int(line) for line in ran.stdout.split()]
