"""A checkpoint of another training stage: the same weights, but the optimizer was moving other parts of the model.

Resuming would start new moments in the middle of a schedule, or drop moments without a word, so it is refused.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from megatron_nmm.checkpoint import progress
from megatron_nmm.errors import CheckpointError
from megatron_nmm.models.parts import part_of

OPTIMIZER_PREFIX = "optimizer.state."
"""Names of optimizer tensors begin so; megatron-core's choice."""
MOMENT_PREFIX = f"{OPTIMIZER_PREFIX}exp_avg."
"""Every trained weight has such a tensor, in either precision."""


def require_same_stage(
    checkpoint: Path, wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise CheckpointError when ``wanted`` has the weights of ``stored`` and trains other ones of them.

    Both map names of tensors, weights and optimizer state alike, to shapes. Tensors of different weights are left to
    the caller: that is another model, not another stage.
    """
    if _weights(wanted) != _weights(stored):
        return
    now, before = _trained(wanted), _trained(stored)
    facts = [f"{_parts(now - before)}: trained now, without optimizer state in it"] if now - before else []
    facts += [f"{_parts(before - now)}: frozen now, with optimizer state in it"] if before - now else []
    if facts:
        raise CheckpointError(
            f"{checkpoint} is of another training stage ({'; '.join(facts)}). To continue that stage use its "
            f"optim.rates ({progress.NAME} in that folder holds them); to start a new stage with its weights use "
            f"--set init.checkpoint={checkpoint} and another folder (--set folder=...)"
        )


def _weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if not name.startswith(OPTIMIZER_PREFIX)}


def _trained(names: Iterable[str]) -> set[str]:
    return {name.removeprefix(MOMENT_PREFIX) for name in names if name.startswith(MOMENT_PREFIX)}


def _parts(weights: Iterable[str]) -> str:
    return ", ".join(sorted({part_of(name) for name in weights}))
