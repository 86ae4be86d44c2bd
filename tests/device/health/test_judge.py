"""Facts made up for the purpose, one fault each: what is found, why it matters, what mends it."""

import ast
import re
from dataclasses import replace
from typing import Any

import pytest

from megatron_nmm.device.health.facts import Facts
from megatron_nmm.device.health.judge import Finding, judge
from megatron_nmm.device.health.table import PACKAGES, TESTING
from tests.house.tree import ROOT

COMPLETE = Facts(
    python="3.12.1",
    system="Linux x86_64",
    packages={package.name: package.rule[2:] for package in PACKAGES},
    torch_cuda="13.0",
    commands={"g++": "12.2.0"},
    kernels={"CPU": "library _cpu.abi3.so", "CUDA": "reference: no library is built"},
    cpu="A processor",
    cpu_flags=frozenset({"avx2", "avx512f", "amx_bf16"}),
    cores=2,
    memory_gib=24.0,
    disk_free_gib=65.0,
    shared_memory_gib=8.0,
)
"""A laptop on which nothing is missing."""
GPU_MACHINE = replace(
    COMPLETE,
    gpus=("H100",) * 8,
    driver="580.65",
    torch_nccl="2.30.7",
    apex="nvidia",
    kernels={"CPU": "library _cpu.abi3.so", "CUDA": "library _cuda.abi3.so"},
    commands={"g++": "12.2.0", "nvcc": "13.0"},
    packages={
        **COMPLETE.packages,
        "nvidia-nccl-cu13": "2.30.7",
        "transformer-engine": "2.20.2",
        "transformer-engine-cu13": "2.20.2",
        "transformer-engine-torch": "2.20.2",
        "deep-ep": "2.0.0",
    },
)


def without(facts: Facts, *names: str) -> dict[str, str]:
    """The packages of ``facts`` but these."""
    return {name: version for name, version in facts.packages.items() if name not in names}


def having(facts: Facts, **packages: str) -> dict[str, str]:
    """The packages of ``facts`` and these; underscores stand for dashes."""
    return {**facts.packages, **{name.replace("_", "-"): version for name, version in packages.items()}}


def of(facts: Facts, subject: str) -> Finding:
    """The last finding about ``subject``."""
    return [finding for finding in judge(facts) if finding.subject == subject][-1]


def test_a_complete_laptop_and_a_complete_gpu_machine_have_nothing_to_mend() -> None:
    assert {finding.level for finding in judge(COMPLETE)} == {"ok", "absent"}
    assert {finding.level for finding in judge(GPU_MACHINE)} == {"ok"}
    assert of(GPU_MACHINE, "GPUs").found == "8 x H100; driver 580.65, CUDA 13.0"
    assert of(COMPLETE, "CPU").found == "A processor, 2 cores; AMX bf16, AVX-512, AVX2"


@pytest.mark.parametrize(
    ("base", "changes", "subject", "level", "found", "command"),
    [
        (COMPLETE, {"system": "Darwin arm64"}, "system", "fault", "Darwin arm64", "use Linux"),
        (COMPLETE, {"python": "3.11.9"}, "Python", "fault", "3.11.9", "tools/setup_env.sh"),
        (COMPLETE, {"packages": without(COMPLETE, "pyarrow")}, "pyarrow", "fault", "not installed", "setup_env"),
        (COMPLETE, {"packages": without(COMPLETE, "ray")}, "ray", "absent", "not installed", "NMM_EXTRAS=ray "),
        (COMPLETE, {"packages": having(COMPLETE, torch="2.9.1")}, "torch", "fault", "2.9.1, needs >=2.10", "setup_env"),
        (
            COMPLETE,
            {"packages": having(COMPLETE, megatron_core="0.20.0")},
            *("megatron-core", "fault", "0.20.0, needs ==0.19.2", "setup_env"),
        ),
        (COMPLETE, {"torch_error": "libc10.so: no such file"}, "torch", "fault", "cannot be imported: libc10", "torch"),
        (
            COMPLETE,
            {"apex": "other", "packages": having(COMPLETE, apex="0.9.10")},
            *("apex", "fault", "a namesake (0.9.10)", "pip uninstall apex"),
        ),
        (
            COMPLETE,
            {"packages": having(COMPLETE, nvidia_resiliency_ext="0.4.1")},
            *("nvidia-resiliency-ext", "fault", "0.4.1", "pip uninstall nvidia-resiliency-ext"),
        ),
        (
            COMPLETE,
            {"packages": having(COMPLETE, transformer_engine="2.20.2")},
            *("Transformer Engine", "fault", "there is no GPU", "pip uninstall transformer-engine"),
        ),
        (COMPLETE, {"driver": "550.1"}, "GPUs", "fault", "torch (CUDA 13.0) sees no GPU", "update the driver"),
        (COMPLETE, {"driver": "580", "torch_cuda": None}, "torch", "fault", "a build for CPUs", "pip uninstall"),
        (GPU_MACHINE, {"torch_nccl": "2.21.5"}, "NCCL", "hint", "2.21.5", "unset LD_LIBRARY_PATH"),
        (
            GPU_MACHINE,
            {"packages": having(COMPLETE, transformer_engine_cu12="2.9.0")},
            *("Transformer Engine", "fault", "transformer-engine-cu12, torch has CUDA 13.0", "pip install"),
        ),
        (
            GPU_MACHINE,
            {"packages": without(GPU_MACHINE, "transformer-engine-torch")},
            *("Transformer Engine", "hint", "2.20.2, without its PyTorch part", "NVTE_PYTORCH_FORCE_BUILD"),
        ),
        (GPU_MACHINE, {"packages": COMPLETE.packages}, "Transformer Engine", "absent", "not installed", "pip install"),
        (
            GPU_MACHINE,
            {"packages": having(GPU_MACHINE, nvidia_dali_cuda120="1.5")},
            *("DALI", "hint", "nvidia-dali-cuda120, torch has CUDA 13.0", "NMM_EXTRAS=dali"),
        ),
        (GPU_MACHINE, {"apex": ""}, "apex", "absent", "not installed", "--cuda_ext"),
        (
            GPU_MACHINE,
            {"packages": without(GPU_MACHINE, "deep-ep")},
            *("DeepEP", "absent", "needs the package deep_ep", "build DeepEP"),
        ),
        (
            GPU_MACHINE,
            {"packages": having(GPU_MACHINE, nvidia_nccl_cu13="2.27.3"), "torch_nccl": "2.27.3"},
            *("DeepEP", "hint", "needs nvidia-nccl-cu13 2.30.4 or newer", "pip install 'nvidia-nccl-cu13>=2.30.4'"),
        ),
        (COMPLETE, {"kernels": {}}, "nmm_kernels", "absent", "not installed", "NMM_EXTRAS=kernels"),
        (
            COMPLETE,
            {"kernels": {"CPU": "reference: no library is built"}},
            *("CPU", "ok", "A processor", ""),
        ),
        (GPU_MACHINE, {"kernels": COMPLETE.kernels}, "CUDA", "hint", "reference", "python kernels/build.py"),
        (GPU_MACHINE, {"commands": {"nvcc": "12.8"}}, "nvcc", "hint", "12.8", "install the CUDA toolkit 13.0"),
        (COMPLETE, {"commands": {}}, "g++", "absent", "not on PATH", "apt install g++"),
        (COMPLETE, {"memory_gib": 2.0}, "memory", "hint", "2 GiB", ""),
        (COMPLETE, {"disk_free_gib": 3.0}, "disk", "hint", "3 GiB free", "--set folder"),
        (GPU_MACHINE, {"shared_memory_gib": 0.06}, "shared memory", "hint", "/dev/shm has 0.06", "--ipc host"),
    ],
)
def test_one_fault(base: Facts, changes: Any, subject: str, level: str, found: str, command: str) -> None:
    finding = of(replace(base, **changes), subject)
    assert finding.level == level
    assert found in finding.found
    assert command in finding.command
    if level in ("fault", "hint"):
        assert finding.why, "it says why it matters"


def test_slow_operators_are_a_hint_with_the_command() -> None:
    slow = judge(replace(COMPLETE, kernels={"CPU": "reference: no library is built"}))
    (finding,) = [f for f in slow if f.area == "kernels" and f.subject == "CPU"]
    assert (finding.level, finding.command) == ("hint", "python kernels/build.py --force")


def test_the_table_says_what_setup_py_says() -> None:
    values: dict[str, Any] = {}
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id in ("CORE", "EXTRAS")
        ):
            values[node.targets[0].id] = ast.literal_eval(node.value)
    wanted = {("", spec) for spec in values["CORE"]}
    wanted |= {(extra, spec) for extra, specs in values["EXTRAS"].items() if extra != "dev" for spec in specs}
    listed = {(package.extra, package.name + package.rule) for package in PACKAGES}
    assert listed == {(extra, re.sub(r"\[.*\]", "", spec)) for extra, spec in wanted}
    assert set(TESTING) == {re.split("[><=]", spec)[0] for spec in values["EXTRAS"]["dev"]}
