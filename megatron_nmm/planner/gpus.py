"""Graphics processors as their vendor's data sheets describe them."""

from dataclasses import dataclass

from megatron_nmm.config.values import nearest_key
from megatron_nmm.config.versions import Version
from megatron_nmm.errors import ConfigError

GB = 10**9


@dataclass(frozen=True)
class Gpu:
    """One GPU in a node of eight. Rates are peaks without sparsity; links are what one GPU sends in one direction."""

    name: str
    capability: Version
    """Compute capability."""
    bf16: float
    """FLOP/s."""
    fp8: float
    """FLOP/s; 0 = has no 8-bit floating-point products."""
    memory: float
    """Bytes."""
    bandwidth: float
    """Of its memory, bytes/s."""
    node_link: float
    """Between GPUs of a node (NVLink), bytes/s."""
    network: float
    """Between nodes, one adapter a GPU, bytes/s."""
    source: str


NODE = 8
"""GPUs of a node."""

GPUS: dict[str, Gpu] = {
    "a100-80g": Gpu(
        "NVIDIA A100 80GB SXM",
        (8, 0),
        312e12, 0.0, 80 * GB, 2_039 * GB, 300 * GB, 25 * GB,
        "NVIDIA A100 data sheet (NVLink 600 GB/s both ways); DGX A100 data sheet (200 Gb/s InfiniBand a GPU)",
    ),
    "h100": Gpu(
        "NVIDIA H100 SXM",
        (9, 0),
        989e12, 1_979e12, 80 * GB, 3_350 * GB, 450 * GB, 50 * GB,
        "NVIDIA H100 data sheet (half of the rates with sparsity; NVLink 900 GB/s both ways); DGX H100 data sheet "
        "(400 Gb/s a GPU)",
    ),
    "h200": Gpu(
        "NVIDIA H200 SXM",
        (9, 0),
        989e12, 1_979e12, 141 * GB, 4_800 * GB, 450 * GB, 50 * GB,
        "NVIDIA H200 data sheet (half of the rates with sparsity; NVLink 900 GB/s both ways); DGX H200 data sheet "
        "(400 Gb/s a GPU)",
    ),
    "b200": Gpu(
        "NVIDIA B200 SXM",
        (10, 0),
        2_250e12, 4_500e12, 180 * GB, 8_000 * GB, 900 * GB, 50 * GB,
        "NVIDIA DGX B200 data sheet, an eighth of it (72 PFLOP/s FP8 with sparsity, 1,440 GB, 64 TB/s, NVLink 14.4 "
        "TB/s both ways, 400 Gb/s a GPU)",
    ),
}  # fmt: skip


def gpu(name: str) -> Gpu:
    """The GPU called ``name``; ConfigError names the nearest."""
    if name.lower() not in GPUS:
        raise ConfigError(
            f"no GPU is called {name}; the nearest is {nearest_key(name, GPUS)}, all are {', '.join(GPUS)}"
        )
    return GPUS[name.lower()]
