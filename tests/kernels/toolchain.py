"""Compiles the programs of the kernel gates, once for each content of their sources, and says what is missing.

What is made lies in kernels/build/gates under a name that holds the hash of the command and of every source, so a
second run of the suite compiles nothing.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.kernels.conftest import KERNELS, one_process

CSRC = KERNELS / "nmm_kernels" / "csrc"
EMULATOR = Path(__file__).parent / "emulator"
MADE = KERNELS / "build" / "gates"

NO_NVCC = "nvcc is not installed: the CUDA kernels can be neither compiled nor emulated (their headers come with it)"
NO_GXX = "g++ for x86-64 is not installed: the emulator has nothing to compile the CUDA kernels with"


def toolkit() -> Path | None:
    """The folder of the CUDA toolkit that nvcc belongs to."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    places = [os.environ.get("CUDA_HOME"), Path(nvcc).resolve().parents[1], "/usr/local/cuda"]
    return next((Path(place) for place in places if place and (Path(place) / "include" / "cuda_bf16.h").exists()), None)


def missing_for_emulator() -> str | None:
    """Why kernels cannot be emulated here, or None."""
    if shutil.which("g++") is None or os.uname().machine != "x86_64":
        return NO_GXX
    return None if toolkit() else NO_NVCC


def emulator_flags(*extra: str) -> list[str]:
    """g++ with what the execution model needs, and ``extra`` flags."""
    includes = [EMULATOR, CSRC, Path(str(toolkit())) / "include"]
    flags = ["-std=c++20", "-Wall", "-Wno-unknown-pragmas", "-fno-strict-aliasing", "-DNMM_EMULATED", *extra]
    return ["g++", *flags, *(f"-I{folder}" for folder in includes)]


def made(name: str, command: Sequence[str], environment: dict[str, str] | None = None) -> tuple[Path, str]:
    """What ``command`` makes when the path of its result is appended, and all that it printed.

    Raises AssertionError with the compiler's output when it fails.
    """
    content = hashlib.sha256("\0".join([*command, *(environment or {}).values()]).encode())
    for source in sorted([*CSRC.glob("*.cu*"), CSRC / "checks.h", *EMULATOR.iterdir(), KERNELS / "build.py"]):
        content.update(source.read_bytes())
    target = MADE / f"{name}-{content.hexdigest()[:16]}"
    log = target.with_suffix(".log")
    with one_process(name):
        if not (target.exists() and log.exists()):
            _make(name, target, log, command, {**os.environ, **(environment or {})})
    return target, log.read_text()


def _make(name: str, target: Path, log: Path, command: Sequence[str], environment: dict[str, str]) -> None:
    """Run ``command``; what it makes takes the place of what was made from other sources."""
    MADE.mkdir(parents=True, exist_ok=True)
    for old in MADE.glob(f"{name}-*"):
        old.unlink()
    fresh = target.with_suffix(".new")
    ran = subprocess.run(
        [*command, str(fresh)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    log.write_text(ran.stdout)
    os.replace(fresh, target)


def made_program(name: str, source: str, *flags: str) -> Path:
    """A program of the emulator folder, compiled with ``flags``."""
    return made(name, [*emulator_flags(*flags), str(EMULATOR / source), "-o"])[0]
