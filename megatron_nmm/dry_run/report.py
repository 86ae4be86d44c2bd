"""What a dry run found out about a rank, as plain values that become JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Group:
    """A process group that the rank belongs to."""

    name: str
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """What the rank's pipeline stage holds."""

    parts: tuple[str, ...]
    """In the order of the forward pass, e.g. ``patch stem``, ``decoder layers 1-9``, ``output layer``."""
    parameters: int
    """On this rank: its slices, and whole what tensor ranks hold alike."""
    by_part: Mapping[str, int]
    """The same by the parts of ``optim.rates``."""


@dataclass(frozen=True)
class MemoryReport:
    """Exact bytes of live tensors. An allocator's rounding, kernels' workspaces and NCCL's buffers come on top."""

    peak: int
    at_peak: Mapping[str, int]
    """Kind (memory.KINDS) -> bytes at that moment."""
    between_steps: Mapping[str, int]
    """Kind -> bytes when a step has ended."""


@dataclass(frozen=True)
class Collective:
    """All collectives of one sort in one group during a step."""

    name: str
    group: str
    calls: int
    bytes: int
    """Of the larger side of all calls together: what goes in, or what comes out."""


@dataclass(frozen=True)
class Wait:
    """A line at which the host waits for its device."""

    what: str
    where: str
    times: int
    """In a step."""
    why: str
    """Why it may (sites.ALLOWED); empty = it is a fault."""


@dataclass(frozen=True)
class Stray:
    """A line at which an operation of the device is given a tensor of the host: an error on the cluster."""

    what: str
    where: str
    times: int


@dataclass(frozen=True)
class RankReport:
    """One rank's step."""

    rank: int
    stands_for: int
    """Ranks with the same role, this one included; 1 where roles were not looked at."""
    places: Mapping[str, int]
    """Name of a group -> the rank's place in it."""
    groups: tuple[Group, ...]
    stage: Stage
    memory: MemoryReport
    collectives: tuple[Collective, ...]
    waits: tuple[Wait, ...]
    strays: tuple[Stray, ...]
    microbatches: int
    """Of a step."""
    microbatches_run: int
    """Of those, so many were run: more change no peak, and what each of them sends is counted for all."""
    seconds: float
    seconds_for_groups: float

    @property
    def faults(self) -> tuple[str, ...]:
        """What would fail or stall on the cluster."""
        waits = (f"the host waits ({wait.what}) at {wait.where}" for wait in self.waits if not wait.why)
        strays = (f"{stray.what} at {stray.where}" for stray in self.strays)
        return (*waits, *strays)


@dataclass(frozen=True)
class JobReport:
    """A job and the ranks of it that were looked at."""

    name: str
    world: int
    device: str
    """What the ranks stood for: gpu or cpu."""
    load: Mapping[str, int]
    """The stated microbatch: its rows, tokens, image tokens and patches."""
    balance: str
    """How rows were spread over sparse experts; empty without any."""
    ranks: tuple[RankReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
