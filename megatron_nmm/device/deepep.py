"""What DeepEP needs beside it: a wrong version hangs in the first collective, so it is named before there is one."""

import importlib.metadata
import re
from collections.abc import Iterator
from dataclasses import dataclass

from megatron_nmm.config.fault import Fault, config_error

Version = tuple[int, ...]
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
    if faults := tuple(_faults()):
        raise config_error("the run cannot start", faults)


def _faults() -> Iterator[Fault]:
    found = _version("deep_ep", "deep-ep")
    if found is None:
        fact = "parallel.dispatcher deepep needs the package deep_ep, which is not installed"
        yield Fault(KEY, fact, f"build DeepEP from its sources for this machine's GPUs, {OTHERWISE}")
        return
    for need in NEEDS[min(max(found[0], min(NEEDS)), max(NEEDS))]:
        version, wanted = _version(*need.packages), _text(need.lowest)
        if version is None or version < need.lowest:
            has = "is not installed" if version is None else f"is {_text(version)}"
            fact = f"deep_ep {_text(found)} needs {need.packages[0]} {wanted} or newer ({need.why}), which {has}"
            yield Fault(KEY, fact, f"pip install '{need.packages[0]}>={wanted}', {OTHERWISE}")


def _version(*packages: str) -> Version | None:
    """The numbers of the first of ``packages`` that is installed; None when none is."""
    for package in packages:
        try:
            text = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        numbers = re.match(r"\d+(\.\d+)*", text)
        return tuple(int(number) for number in numbers.group().split(".")) if numbers else (0,)
    return None


def _text(version: Version) -> str:
    return ".".join(map(str, version))
