"""How far a run has come: the small part of a checkpoint that is not tensors, as JSON anybody can read."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_nmm.errors import CheckpointError
from megatron_nmm.files import durable

NAME = "progress.json"


@dataclass(frozen=True)
class Progress:
    """Where training stood. The order of data is a function of (seed, consumed): no loader state is needed.

    No random state either: nothing in a training step draws random numbers (no dropout; augmentation and noise are
    functions of seed, sample and epoch), and states of ranks could not be carried to another layout.
    """

    step: int
    """Optimizer steps taken."""
    consumed: int
    """Packs consumed, over all ranks."""
    config: Mapping[str, object]
    """The resolved run configuration that wrote this checkpoint, as a JSON tree."""


def write(checkpoint: Path, progress: Progress) -> None:
    """Write ``progress`` into a checkpoint folder, durably."""
    durable.write(checkpoint / NAME, f"{json.dumps(asdict(progress), indent=1)}\n".encode())


def read(checkpoint: Path) -> Progress:
    """Progress of a checkpoint. Raises CheckpointError when the file makes no sense."""
    try:
        tree = json.loads((checkpoint / NAME).read_text())
        return Progress(int(tree["step"]), int(tree["consumed"]), dict(tree["config"]))
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise CheckpointError(f"{checkpoint / NAME} cannot be read ({type(fault).__name__}: {fault})") from fault
