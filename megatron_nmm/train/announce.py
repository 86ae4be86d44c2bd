"""A run's first line: on what it runs, how the model is spread, how large it is, how much a step takes."""

from megatron_nmm.config import RunConfig
from megatron_nmm.models.accounting import parameters
from megatron_nmm.parallel.world import World


def announcement(run: RunConfig, world: World) -> str:
    """One line; the parameters are those of the whole model, embeddings and norms included."""
    parallel, data = run.parallel, run.data
    options = [name for name, on in _options(run).items() if on]
    return (
        f"{run.name}: {world.device.describe()}, {world.size} process{'es' if world.size > 1 else ''} = "
        f"tensor {parallel.tensor} x pipeline {parallel.pipeline} x data {world.data_size}"
        f"{''.join(f' + {option}' for option in options)}, {run.precision.dtype}, "
        f"{parameters(run.model).total / 1e6:.2f} M parameters, {run.steps} steps of "
        f"{data.global_batch * data.sequence_length:,} tokens"
    )


def _options(run: RunConfig) -> dict[str, bool]:
    return {
        "sequence parallel": run.parallel.sequence,
        "distributed optimizer": run.parallel.distributed_optimizer,
        "recomputation": run.parallel.recompute != "none",
    }
