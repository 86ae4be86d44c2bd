"""The facts that the doctor judges, gathered in one place; one that cannot be had is None or empty, never an error."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

COMMANDS = {"nvidia-smi": (), "nvcc": ("--version",), "g++": ("--version",)}
"""Programs that are looked for, and how they are asked for their version."""
APEX_PARTS = ("multi_tensor_apply", "normalization")
"""Folders that NVIDIA's apex has and its namesake has not."""
GIB = 1 << 30


@dataclass(frozen=True)
class Facts:
    """One machine and one Python environment."""

    python: str = ""
    system: str = ""
    """Such as ``Linux x86_64``."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Installed distributions, names in lower case with dashes, and their versions."""
    apex: str = ""
    """"nvidia", "other", or empty when there is no module of that name."""
    torch_error: str = ""
    """Why torch cannot be imported."""
    torch_cuda: str | None = None
    """CUDA that torch was built for."""
    torch_nccl: str | None = None
    """NCCL that torch has loaded."""
    gpus: tuple[str, ...] = ()
    """Names of the GPUs that torch sees."""
    driver: str | None = None
    """Version of NVIDIA's driver, where its GPUs answer."""
    commands: Mapping[str, str] = field(default_factory=dict)
    """Programs on PATH and what they say of their version."""
    kernels: Mapping[str, str] = field(default_factory=dict)
    """What serves each device's operators, as of nmm_kernels.serving()."""
    kernels_error: str = ""
    cpu: str = ""
    cpu_flags: frozenset[str] = frozenset()
    cores: int = 0
    """That this process may use."""
    memory_gib: float = 0.0
    """Of the machine, or of its container if that is less."""
    disk_free_gib: float = 0.0
    """Where runs are written: the current folder."""
    shared_memory_gib: float | None = None


def gather() -> Facts:
    """Look at this machine. Imports torch and nmm_kernels if they are there; takes a few seconds."""
    torch = _torch()
    kernels, kernels_error = _kernels()
    return Facts(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages=_packages(),
        apex=_apex(),
        **torch,  # type: ignore[arg-type]
        driver=_driver(),
        commands=_commands(),
        kernels=kernels,
        kernels_error=kernels_error,
        cpu=_cpuinfo("model name"),
        cpu_flags=frozenset((_cpuinfo("flags") or _cpuinfo("Features")).split()),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        memory_gib=_memory() / GIB,
        disk_free_gib=shutil.disk_usage(".").free / GIB,
        shared_memory_gib=shutil.disk_usage("/dev/shm").total / GIB if os.path.isdir("/dev/shm") else None,
    )


def _packages() -> dict[str, str]:
    found = {}
    for distribution in importlib.metadata.distributions():
        if name := distribution.metadata["Name"]:
            found[re.sub(r"[-_.]+", "-", name).lower()] = distribution.version
    return found


def _apex() -> str:
    """Which apex this is, told by its folders: importing the wrong one runs its code."""
    spec = importlib.util.find_spec("apex")
    if spec is None:
        return ""
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    return "nvidia" if any((folder / part).is_dir() for folder in folders for part in APEX_PARTS) else "other"


def _torch() -> dict[str, object]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"torch_error": str(error).partition("\n")[0]}
    with warnings.catch_warnings():  # that the driver is too old is our own finding
        warnings.simplefilter("ignore")
        seen = torch.cuda.is_available()
    built = torch.version.cuda
    return {
        "torch_cuda": built,
        "torch_nccl": ".".join(map(str, torch.cuda.nccl.version())) if built and seen else None,
        "gpus": tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) if seen else (),
    }


def _kernels() -> tuple[dict[str, str], str]:
    try:
        with warnings.catch_warnings():  # what it warns of is our own finding, too
            warnings.simplefilter("ignore")
            import nmm_kernels
    except (ImportError, OSError) as error:
        return {}, str(error).partition("\n")[0]
    return nmm_kernels.serving(), ""


def _driver() -> str | None:
    answer = _ask(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return answer.splitlines()[0] if answer else None


def _commands() -> dict[str, str]:
    found = {}
    for name, question in COMMANDS.items():
        if shutil.which(name):
            numbers = re.findall(r"\d+\.\d+(?:\.\d+)?", _ask([name, *question]) if question else "")
            found[name] = numbers[-1] if name == "nvcc" and numbers else next(iter(numbers), "")
    return found


def _ask(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _cpuinfo(key: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(rf"^{key}\s*:\s*(.*)$", text, re.MULTILINE)
    return found.group(1) if found else ""


def _memory() -> int:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        container = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        return machine
    return min(machine, int(container)) if container.isdigit() else machine
