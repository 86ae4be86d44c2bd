"""Pure judgements: facts in, findings out. Nothing here looks at the machine, so tests bring facts of their own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from megatron_nmm.config import versions
from megatron_nmm.device.deepep import deepep_faults
from megatron_nmm.device.health.facts import Facts
from megatron_nmm.device.health.table import PACKAGES, SETUP

Level = Literal["ok", "absent", "hint", "fault"]
"""absent = optional and not there; hint = works, and could be better; fault = the core is missing or wrong."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table."""

    area: str
    subject: str
    level: Level
    found: str
    why: str = ""
    command: str = ""
    """What mends it; empty where nothing has to be done."""


def judge(facts: Facts) -> tuple[Finding, ...]:
    """All findings, area by area."""
    return tuple(finding for check in CHECKS for finding in check(facts))


def system(facts: Facts) -> Iterator[Finding]:
    """Operating system and Python."""
    linux = facts.system.startswith("Linux")
    why = "" if linux else "locks, signals and process groups are Linux's"
    yield Finding("core", "system", "ok" if linux else "fault", facts.system, why, "" if linux else "use Linux, or WSL")
    fits = versions.meets(versions.parse(facts.python), ">=3.12")
    why = "" if fits else "megatron-core 0.19 needs Python 3.12"
    yield Finding(
        "core", "Python", "ok" if fits else "fault", facts.python, why, "" if fits else f"rm -r .venv; {SETUP}"
    )


def packages(facts: Facts) -> Iterator[Finding]:
    """Every package of setup.py."""
    for package in PACKAGES:
        area = package.extra or "core"
        version = facts.packages.get(package.name)
        if version is None:
            level: Level = "absent" if package.extra else "fault"
            yield Finding(area, package.name, level, "not installed", package.why, package.command)
        elif not versions.meets(versions.parse(version), package.rule):
            level = "hint" if package.extra else "fault"
            found = f"{version}, needs {package.rule}"
            yield Finding(area, package.name, level, found, package.why, package.command)
        else:
            built = f", built for CUDA {facts.torch_cuda}" if package.name == "torch" and facts.torch_cuda else ""
            yield Finding(area, package.name, "ok", version + built)
    if facts.torch_error and "torch" in facts.packages:
        command = f"pip uninstall --yes torch; rm -f .venv/.nmm_setup; {SETUP}"
        yield Finding("core", "torch", "fault", f"cannot be imported: {facts.torch_error}", "nothing runs", command)


def impostors(facts: Facts) -> Iterator[Finding]:
    """Packages that break the engine by being there."""
    if facts.apex == "other":
        why = (
            "the index's apex is no relation of NVIDIA's; megatron-core takes it for that and fails when it imports it"
        )
        yield Finding(
            "fit", "apex", "fault", f"a namesake ({facts.packages.get('apex', '?')})", why, "pip uninstall apex"
        )
    resiliency = facts.packages.get("nvidia-resiliency-ext")
    if resiliency is not None and versions.meets(versions.parse(resiliency), "<=0.4.1"):
        why = "has no __version__, which megatron-core 0.19.2 asks for: it cannot be imported"
        command = "pip uninstall nvidia-resiliency-ext  # or: pip install 'nvidia-resiliency-ext>=0.6'"
        yield Finding("fit", "nvidia-resiliency-ext", "fault", resiliency, why, command)
    if not facts.gpus and (engines := _transformer_engine(facts)):
        why = "without a GPU it computes nothing, yet megatron-core prefers its FusedAdam and layers where it is there"
        command = f"pip uninstall {' '.join(engines)}"
        yield Finding("fit", "Transformer Engine", "fault", "there is no GPU", why, command)


def graphics(facts: Facts) -> Iterator[Finding]:
    """GPUs, their driver, and the libraries for them."""
    if facts.gpus:
        names = ", ".join(f"{facts.gpus.count(name)} x {name}" for name in dict.fromkeys(facts.gpus))
        yield Finding("GPU", "GPUs", "ok", f"{names}; driver {facts.driver}, CUDA {facts.torch_cuda}")
    elif facts.driver and facts.torch_cuda is None:
        why = f"there is a GPU (driver {facts.driver}), and this build of torch cannot use it"
        yield Finding("GPU", "torch", "fault", "a build for CPUs", why, f"pip uninstall --yes torch; {SETUP}")
    elif facts.driver:
        found = f"driver {facts.driver} answers, torch (CUDA {facts.torch_cuda}) sees no GPU"
        command = f"update the driver to one for CUDA {facts.torch_cuda}, and unset CUDA_VISIBLE_DEVICES"
        yield Finding("GPU", "GPUs", "fault", found, "training would run on the CPU", command)
    else:
        why = "runs train on the CPU, over gloo; NCCL, Transformer Engine, apex and DeepEP are for GPUs"
        yield Finding("GPU", "GPUs", "absent", "none", why)
        return
    yield from _gpu_libraries(facts)


def _gpu_libraries(facts: Facts) -> Iterator[Finding]:
    if facts.torch_nccl:
        wheel = next((v for name, v in facts.packages.items() if name.startswith("nvidia-nccl-cu")), facts.torch_nccl)
        same = versions.parse(wheel) == versions.parse(facts.torch_nccl)
        why = "" if same else f"the wheel beside torch is {wheel}: another one comes first on the library path"
        command = "" if same else "unset LD_LIBRARY_PATH and LD_PRELOAD"
        yield Finding("GPU", "NCCL", "ok" if same else "hint", facts.torch_nccl, why, command)
    engines = _transformer_engine(facts)
    why = "FP8 and fused layers"
    command = "NVTE_PYTORCH_FORCE_BUILD=TRUE pip install --no-build-isolation 'transformer-engine[pytorch]'"
    if not engines:
        yield Finding("GPU", "Transformer Engine", "absent", "not installed", why, f"{command}, or the Dockerfile")
    elif wrong := [name for name in engines if not _for_same_cuda(name, facts)]:
        yield Finding(
            "GPU", "Transformer Engine", "fault", f"{wrong[0]}, torch has CUDA {facts.torch_cuda}", why, command
        )
    else:
        ready = "transformer-engine-torch" in engines
        found = f"{facts.packages[engines[0]]}{'' if ready else ', without its PyTorch part'}"
        yield Finding("GPU", "Transformer Engine", "ok" if ready else "hint", found, why, "" if ready else command)
    for dali in (name for name in facts.packages if name.startswith("nvidia-dali-cuda")):
        if not _for_same_cuda(dali, facts):
            found = f"{dali}, torch has CUDA {facts.torch_cuda}"
            yield Finding("GPU", "DALI", "hint", found, "two CUDA runtimes in one process", f"NMM_EXTRAS=dali {SETUP}")
    if facts.apex != "nvidia":
        why = "adds weight gradients straight into the fp32 buffer"
        command = "build it from NVIDIA's sources with --cuda_ext, or use the Dockerfile"
        yield Finding("GPU", "apex", "absent", "not installed", why, command)
    else:
        yield Finding("GPU", "apex", "ok", "NVIDIA's")


def deepep(facts: Facts) -> Iterator[Finding]:
    """DeepEP, by the gate that a run goes through (device/deepep.py)."""
    if not facts.gpus and not {"deep-ep"} & facts.packages.keys():
        return
    found = {name: versions.parse(number) for name, number in facts.packages.items()}
    faults = tuple(deepep_faults(lambda *names: next((found[name] for name in names if name in found), None)))
    for fault in faults:
        level: Level = "hint" if "deep-ep" in facts.packages else "absent"
        yield Finding("GPU", "DeepEP", level, fault.fact, "parallel.dispatcher=deepep", fault.remedy)
    if not faults:
        yield Finding("GPU", "DeepEP", "ok", facts.packages["deep-ep"])


def kernels(facts: Facts) -> Iterator[Finding]:
    """The operators of sparse experts and the compilers they are built with."""
    command, why = "python kernels/build.py --force", "sparse experts run on plain PyTorch, correct but slower"
    if not facts.kernels:
        found = facts.kernels_error or "not installed"
        yield Finding(
            "kernels", "nmm_kernels", "absent", found, "sparse experts need it", f"NMM_EXTRAS=kernels {SETUP}"
        )
    for device, serving in facts.kernels.items():
        if device != "CPU" and not facts.gpus:
            continue
        slow = "reference" in serving
        yield Finding(
            "kernels", device, "hint" if slow else "ok", serving, why if slow else "", command if slow else ""
        )
    compiler = facts.commands.get("g++")
    if compiler is None:
        yield Finding("kernels", "g++", "absent", "not on PATH", "builds the CPU operators", "apt install g++")
    else:
        yield Finding("kernels", "g++", "ok", compiler)
    nvcc = facts.commands.get("nvcc")
    if nvcc is None:
        if facts.gpus:
            command = f"install the CUDA toolkit {facts.torch_cuda}, and put its bin/ on PATH"
            yield Finding("kernels", "nvcc", "absent", "not on PATH", "builds the GPU operators", command)
    elif facts.torch_cuda and versions.parse(nvcc)[0] != versions.parse(facts.torch_cuda)[0]:
        why = f"what it builds does not load beside torch's CUDA {facts.torch_cuda}"
        yield Finding("kernels", "nvcc", "hint", nvcc, why, f"install the CUDA toolkit {facts.torch_cuda}")
    else:
        yield Finding("kernels", "nvcc", "ok", nvcc)


def machine(facts: Facts) -> Iterator[Finding]:
    """Processor, memory and disk."""
    units = [
        name
        for flag, name in (("amx_bf16", "AMX bf16"), ("avx512f", "AVX-512"), ("avx2", "AVX2"))
        if flag in facts.cpu_flags
    ]
    yield Finding(
        "machine", "CPU", "ok", f"{facts.cpu or 'unknown'}, {facts.cores} cores; {', '.join(units) or 'no AVX'}"
    )
    small = facts.memory_gib < 4
    why = "the quickstart's two processes take 2 GiB" if small else ""
    yield Finding("machine", "memory", "hint" if small else "ok", f"{facts.memory_gib:.0f} GiB", why)
    full = facts.disk_free_gib < 10
    why = "set-up takes 6 GB, a checkpoint 12 bytes a parameter or more" if full else ""
    command = "start from a folder on a larger disk, or --set folder=..." if full else ""
    yield Finding("machine", "disk", "hint" if full else "ok", f"{facts.disk_free_gib:.0f} GiB free here", why, command)
    if facts.gpus and facts.shared_memory_gib is not None and facts.shared_memory_gib < 1:
        found = f"/dev/shm has {facts.shared_memory_gib:.2f} GiB"
        command = "docker run --ipc host ... (or --shm-size 16g)"
        yield Finding("machine", "shared memory", "hint", found, "NCCL exchanges between GPUs through it", command)


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    system,
    packages,
    impostors,
    graphics,
    deepep,
    kernels,
    machine,
)
"""In the order of the table."""


def _transformer_engine(facts: Facts) -> list[str]:
    return sorted(name for name in facts.packages if name.startswith("transformer-engine"))


def _for_same_cuda(package: str, facts: Facts) -> bool:
    """Whether a package that carries a CUDA version in its name (-cu13, -cuda130) is for torch's."""
    _, mark, number = package.rpartition("-cu")
    digits = number.removeprefix("da")[:2]
    return not mark or not digits.isdigit() or facts.torch_cuda is None or digits == facts.torch_cuda.partition(".")[0]
