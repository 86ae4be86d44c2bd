"""Which ranks of a job do the same: one of each kind is looked at, and stands for all.

Every stage differs from the others, and so does every place in a context group, which holds positions of its own.
Within one of each, data ranks hold copies or equal shards, tensor ranks equal slices and expert ranks equally many
experts with equally many rows. Only where the tensor group spreads whole images (placement "data" of the encoder) may
its ranks have different work: those with equally many patches have the same.
"""

from dataclasses import dataclass

from megatron_nmm.config import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.vision.placement import placement
from megatron_nmm.models.vision.share import shares


@dataclass(frozen=True)
class Role:
    """What tells a kind of ranks from the others."""

    stage: int
    context: int
    """Place in the context group."""
    patches: int
    """Of the rank's own share; 0 where all have the same."""


def representatives(run: RunConfig, size: int, batch: Batch) -> dict[int, int]:
    """The first rank of each role -> how many ranks have it; ``batch`` is everybody's microbatch."""
    patches, parallel = _patches(run, batch), run.parallel
    first: dict[Role, int] = {}
    count: dict[int, int] = {}
    for rank in range(size):
        # Ranks lie tensor fastest, then context, pipeline slowest (parallel/world.py).
        stage, worker = rank // (size // parallel.pipeline), rank % (parallel.tensor * parallel.context)
        role = Role(stage, worker // parallel.tensor, patches[worker] if stage == 0 else 0)
        leader = first.setdefault(role, rank)
        count[leader] = count.get(leader, 0) + 1
    return count


def _patches(run: RunConfig, batch: Batch) -> list[int]:
    """Patches of each rank of a tensor and context group, where they spread images; else 0."""
    workers = run.parallel.tensor * run.parallel.context
    if not run.model.vision.depth or placement(run) == "tensor":
        return [0] * workers
    grids = [(rows, columns) for rows, columns in batch.grids.tolist()]
    return [shares(grids, run.model.vision, workers, worker, 1).mine.length for worker in range(workers)]
