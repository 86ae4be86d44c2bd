"""Compiles csrc/ into the libraries of nmm_kernels: ``python kernels/build.py`` in place, or through ``pip install``.

The CPU library needs a C++20 compiler, the CUDA library nvcc and a PyTorch with CUDA; what is missing is said and left
out, and the PyTorch references serve instead. Both libraries use PyTorch's stable ABI alone: each is built against one
version and loads in every later one. Only PyTorch's headers are needed, so it is found without being imported.
"""

import argparse
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PACKAGE = ROOT / "nmm_kernels"
SOURCES = PACKAGE / "csrc"
SUFFIX = ".abi3.so"
"""No symbol of Python is used, so one file serves every Python 3."""

ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"
"""The stable ABI as of PyTorch 2.10, the oldest version the libraries load in."""

CPU_FLAGS = ("-std=c++20", "-O3", "-fno-strict-aliasing", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-psabi")
LEVELS = {
    "baseline": (),
    "v3": ("-march=x86-64-v3",),
    "v4": ("-march=x86-64-v4",),
    "v4_bf16": ("-march=x86-64-v4", "-mavx512bf16"),
}
"""The x86-64 levels that cpu_rows.cpp is compiled for; the library takes the best one at run time."""

CUDA_FLAGS = ("-std=c++20", "-O3", "-DUSE_CUDA", "-Xcompiler", "-fPIC,-fvisibility=hidden")
ARCHITECTURES = ("80", "90", "100", "120")
"""Compute capabilities of the machine code; the last one is also kept as PTX, for GPUs that come later."""


class Missing(Exception):
    """A tool that a library needs is not there; the message says which."""


@dataclass(frozen=True)
class Torch:
    """The PyTorch that is built against."""

    folder: Path

    @staticmethod
    def find() -> "Torch":
        """PyTorch of this interpreter; an isolated build by pip hides it, so its folder is looked up as well."""
        spec = importlib.util.find_spec("torch")
        places = [Path(spec.origin).parent] if spec and spec.origin else []
        places += [Path(sysconfig.get_path(kind)) / "torch" for kind in ("platlib", "purelib")]
        for folder in places:
            if (folder / "include" / "torch" / "csrc" / "stable" / "library.h").exists():
                return Torch(folder)
        raise Missing("no PyTorch with the stable ABI's headers (2.10 or newer) is installed")

    @property
    def cuda(self) -> str | None:
        """The CUDA version of this PyTorch, None for one without CUDA."""
        found = re.search(r"^cuda\b.*= '(.+)'", (self.folder / "version.py").read_text(encoding="utf-8"), re.MULTILINE)
        return found.group(1) if found else None

    @property
    def compile_flags(self) -> list[str]:
        """Where the headers are, and which ABI to keep to."""
        return [f"-I{self.folder / 'include'}", ABI]

    def link_flags(self, *names: str) -> list[str]:
        """The libraries of PyTorch, which are loaded already when ours is."""
        return [f"-L{self.folder / 'lib'}", *(f"-l{name}" for name in names)]


def tool(variable: str, *names: str) -> list[str]:
    """The command that an environment variable names, or the first of ``names`` on PATH."""
    if chosen := os.environ.get(variable):
        return shlex.split(chosen)
    for name in names:
        if shutil.which(name):
            return [name]
    raise Missing(f"none of {', '.join(names)} is on PATH, and {variable} is not set")


def run(command: list[str], verbose: bool) -> None:
    """Run a compiler; its output is shown when it fails."""
    if verbose:
        print(shlex.join(command), flush=True)
    done = subprocess.run(command, capture_output=not verbose, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"{shlex.join(command)}\nfailed with {done.returncode}:\n{done.stdout or ''}{done.stderr or ''}"
        )


def sources(*patterns: str) -> list[Path]:
    """The files of csrc/ that match, in order of name."""
    return sorted(path for pattern in patterns for path in SOURCES.glob(pattern))


def build_cpu(target: Path, objects: Path, verbose: bool) -> None:
    """Compile the CPU library to ``target``."""
    torch, compiler = Torch.find(), tool("CXX", "c++", "g++", "clang++")
    x86 = platform.machine() in ("x86_64", "AMD64")
    units: list[tuple[Path, str, tuple[str, ...]]]
    units = [(path, path.stem, ()) for path in sources("cpu_*.cpp") if path.stem != "cpu_rows"]
    levels = LEVELS if x86 else {"baseline": ()}
    for level, flags in levels.items():
        units.append((SOURCES / "cpu_rows.cpp", f"cpu_rows_{level}", (f"-DNMM_LEVEL={level}", *flags)))
    made, commands = [], []
    for source, name, flags in units:
        made.append(str(objects / f"{name}.o"))
        commands.append([*compiler, *CPU_FLAGS, *torch.compile_flags, *flags, "-c", str(source), "-o", made[-1]])
    with ThreadPoolExecutor(os.cpu_count()) as side_by_side:
        list(side_by_side.map(run, commands, [verbose] * len(commands)))
    run([*compiler, "-shared", *made, *torch.link_flags("torch_cpu"), "-o", str(target)], verbose)


def build_cuda(target: Path, objects: Path, verbose: bool) -> None:
    """Compile the CUDA library to ``target``."""
    torch = Torch.find()
    if torch.cuda is None:
        raise Missing("this PyTorch has no CUDA")
    nvcc = tool("NVCC", "nvcc")
    codes = [f"-gencode=arch=compute_{code},code=sm_{code}" for code in ARCHITECTURES]
    codes.append(f"-gencode=arch=compute_{ARCHITECTURES[-1]},code=compute_{ARCHITECTURES[-1]}")
    made = []
    for source in sources("*.cu"):
        made.append(str(objects / f"{source.stem}.o"))
        run([*nvcc, *CUDA_FLAGS, *codes, *torch.compile_flags, "-c", str(source), "-o", made[-1]], verbose)
    run([*nvcc, "-shared", *made, *torch.link_flags("torch_cpu", "torch_cuda"), "-o", str(target)], verbose)


@dataclass(frozen=True)
class Library:
    """How one library is made, and from what."""

    compile: Callable[[Path, Path, bool], None]
    patterns: tuple[str, ...]

    @property
    def changed(self) -> float:
        """When a source was last changed; this file counts, for it holds the flags."""
        return max(path.stat().st_mtime for path in [Path(__file__), *sources(*self.patterns)])


LIBRARIES = {
    "_cpu": Library(build_cpu, ("cpu_*", "checks.h")),
    "_cuda": Library(build_cuda, ("*.cu", "*.cuh", "checks.h")),
}


def build(
    folder: Path, stems: Sequence[str] = tuple(LIBRARIES), force: bool = False, verbose: bool = False
) -> list[str]:
    """Bring the libraries in ``folder`` up to date; one line for each says what became of it."""
    report = []
    for stem in stems:
        target, library = folder / f"{stem}{SUFFIX}", LIBRARIES[stem]
        if not force and target.exists() and target.stat().st_mtime > library.changed:
            report.append(f"{target.name}: up to date")
            continue
        with tempfile.TemporaryDirectory() as objects:
            made = Path(objects) / target.name
            try:
                library.compile(made, Path(objects), verbose)
            except Missing as reason:
                report.append(f"{target.name}: not built, {reason}; the PyTorch references serve")
                continue
            # Moved, not written in place: a process that has the old library loaded keeps it.
            beside = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.copy2(made, beside)
            os.replace(beside, target)
        report.append(f"{target.name}: built")
    return report


def main() -> None:
    """Build beside the Python files, for work on the kernels."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--force", action="store_true", help="build even what is up to date")
    parser.add_argument("--verbose", action="store_true", help="show every command and its warnings")
    arguments = parser.parse_args()
    for line in build(PACKAGE, force=arguments.force, verbose=arguments.verbose):
        print(f"[kernels] {line}")


if __name__ == "__main__":
    main()
