"""What a run asks of its hardware: one object, chosen once, passed along.

Model, training and checkpoint code never test for an accelerator; they call the ``Device`` they were given.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Literal, Protocol

import torch

AttentionBackend = Literal["per_document", "flex"]
Elementwise = Literal["compiled", "few_passes"]

UNWRITTEN = "unwritten"
"""Attribute of a gradient whose memory means nothing until it is written (parallel/unwritten.py)."""
WRITES_GRADIENT = "writes_gradient"
"""Attribute of a module, True: it alone computes its weight's gradient, and overwrites one marked ``UNWRITTEN``."""


class Device(Protocol):
    """The hardware behind one rank."""

    name: str
    """What ``RunConfig.device`` calls it."""
    backend: str
    """torch.distributed backend of its collectives."""
    attention_backend: AttentionBackend
    """Which packed attention this device runs (models/attention)."""
    elementwise: Elementwise
    """How norms and gates are computed: by kernels compiled for the device, or in few passes over memory."""

    eight_bit_products: bool
    """Whether its hardware multiplies 8-bit floats, through Transformer Engine; else recipes of 8 bits are emulated."""
    group_options: Mapping[str, bool]
    """What megatron-core's groups need beside their sizes."""
    fused_weight_gradient: bool
    """Whether linear layers can add their weight gradient straight into the fp32 buffer."""
    writes_first_gradient: bool
    """Whether the kernel that does so overwrites a gradient marked ``UNWRITTEN`` and takes the mark away."""

    def start(self, local_rank: int, local_size: int, threads: int) -> None:
        """Claim this rank's hardware: ``local_rank`` of ``local_size`` on this machine; ``threads`` 0 = fair share."""

    def waited_s(self) -> float:
        """Seconds since the oldest collective that is not finished and will raise no error when it is late; else 0."""

    def collective_limit(self, limit_s: float) -> timedelta:
        """The limit to give the collectives' library so that a wait of ``limit_s`` seconds ends in a report of ours."""

    @property
    def torch_device(self) -> torch.device:
        """Where this rank's tensors live."""

    def synchronize(self) -> None:
        """Wait until everything queued on the device has finished; call before reading a clock."""

    def peak_memory(self) -> int:
        """Highest memory use so far, in bytes."""

    def describe(self) -> str:
        """One phrase for the run's first line, such as ``cpu (2 threads)``."""
