"""A run's first lines: on what it runs, how the model is spread, how large it is, what a step takes and reads."""

from megatron_nmm.config import RunConfig
from megatron_nmm.data.stream import Stream
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


def data_line(run: RunConfig, data: Stream) -> str:
    """What is read, by what, how far ahead of the step."""
    mixture = data.mixture
    sources = ", ".join(f"{portion.name} ({portion.packs:,} packs)" for portion in mixture.portions)
    threads = run.data.workers
    ahead = f"{threads} thread{'s' if threads > 1 else ''} reading ahead" if threads else "read within the step"
    return f"data: {sources}; images decoded by {data.decoder_name} ({run.data.decode}), {ahead}"


def _options(run: RunConfig) -> dict[str, bool]:
    return {
        "sequence parallel": run.parallel.sequence,
        "distributed optimizer": run.parallel.distributed_optimizer,
        "recomputation": run.parallel.recompute != "none",
    }
