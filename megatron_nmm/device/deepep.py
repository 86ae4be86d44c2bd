"""What DeepEP needs beside it: a wrong version hangs in the first collective, so it is named before there is one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from megatron_nmm.config.fault import Fault, config_error
from megatron_nmm.config.versions import Version, installed, text

KEY, OTHERWISE = "parallel.dispatcher", "or use parallel.dispatcher kernels"


@dataclass(frozen=True)
class Need:
    """A package that DeepEP wants beside it."""

    packages: tuple[str, ...]
    """Names it is distributed under; one of them is enough."""
    lowest: Version
    why: str


NEEDS: dict[int, tuple[Need, ...]] = {
    1: (Need(("nvidia-nvshmem-cu13", "nvidia-nvshmem-cu12"), (3, 3), "its kernels reach other nodes through NVSHMEM"),),
    2: (
        Need(("torch",), (2, 10), "it is built on torch's symmetric memory"),
        Need(("nvidia-nccl-cu13", "nvidia-nccl-cu12"), (2, 30, 4), "its kernels reach other nodes through NCCL"),
    ),
}
"""DeepEP's major version -> what it needs, from the README and set-up files of either."""


def require_deepep() -> None:
    """Raise ConfigError that lists what DeepEP lacks on this machine; nothing is imported."""
    if faults := tuple(deepep_faults(installed)):
        raise config_error("the run cannot start", faults)


def deepep_faults(version_of: Callable[..., Version | None]) -> Iterator[Fault]:
    """What DeepEP lacks; ``version_of(*names)`` is that of the first of these packages that is there, or None."""
    found = version_of("deep-ep", "deep_ep")
    if found is None:
        fact = "parallel.dispatcher deepep needs the package deep_ep, which is not installed"
        yield Fault(KEY, fact, f"build DeepEP from its sources for this machine's GPUs, {OTHERWISE}")
        return
    for need in NEEDS[min(max(found[0], min(NEEDS)), max(NEEDS))]:
        version, wanted = version_of(*need.packages), text(need.lowest)
        if version is None or version < need.lowest:
            has = "is not installed" if version is None else f"is {text(version)}"
            fact = f"deep_ep {text(found)} needs {need.packages[0]} {wanted} or newer ({need.why}), which {has}"
            yield Fault(KEY, fact, f"pip install '{need.packages[0]}>={wanted}', {OTHERWISE}")
