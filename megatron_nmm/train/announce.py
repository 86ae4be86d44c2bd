"""A run's first lines: on what it runs, how the model is spread, what of it trains, what a step takes and reads."""

from collections.abc import Mapping

from megatron_nmm.config import InitConfig, RunConfig
from megatron_nmm.data.stream import Stream
from megatron_nmm.models.accounting import parameters
from megatron_nmm.models.pipeline_plan import stage_note
from megatron_nmm.parallel.world import World

UNITS = ((1e9, "B"), (1e6, "M"), (1e3, "k"))


def announcement(run: RunConfig, world: World) -> str:
    """A line, and under pipeline parallelism one about its stages; the parameters are those of the whole model."""
    parallel, data = run.parallel, run.data
    options = [name for name, on in _options(run).items() if on]
    first = (
        f"{run.name}: {world.device.describe()}, {world.size} process{'es' if world.size > 1 else ''} = "
        f"{' x '.join(f'{name} {size}' for name, size in {**parallel.shape, 'data': world.data_size}.items())}"
        f"{''.join(f' + {option}' for option in options)}, {run.precision.dtype}, "
        f"{parameters(run.model).total / 1e6:.2f} M parameters, {run.steps} steps of "
        f"{data.global_batch * data.sequence_length:,} tokens"
    )
    return "\n".join(filter(None, (first, stage_note(run))))


def training_line(run: RunConfig, sizes: Mapping[str, int]) -> str:
    """What trains and what is frozen; ``sizes`` are the weights of every part that the model has."""
    rates = {part: getattr(run.optim.rates, part) for part in sizes}
    trained = [f"{_size(part, sizes)}{_pace(rates[part])}" for part in sizes if rates[part]]
    frozen = [_size(part, sizes) for part in sizes if not rates[part]]
    line = f"trains {', '.join(trained)}"
    if frozen:
        line += f"; frozen: {', '.join(frozen)}"
        if run.init == InitConfig():
            line += " (as drawn at random: init.checkpoint and init.language_model give trained weights)"
    return line


def data_line(run: RunConfig, data: Stream) -> str:
    """What is read, by what, how far ahead of the step."""
    mixture = data.mixture
    sources = ", ".join(f"{portion.name} ({portion.packs:,} packs)" for portion in mixture.portions)
    threads = run.data.workers
    ahead = f"{threads} thread{'s' if threads > 1 else ''} reading ahead" if threads else "read within the step"
    return f"data: {sources}; images decoded by {data.decoder_name} ({run.data.decode}), {ahead}"


def _options(run: RunConfig) -> dict[str, bool]:
    return {
        f"expert {run.parallel.expert}": run.parallel.expert > 1,
        f"{run.parallel.virtual_stages} virtual stages": run.parallel.virtual_stages > 1,
        "sequence parallel": run.parallel.sequence,
        "distributed optimizer": run.parallel.distributed_optimizer,
        "overlapped gathering": run.parallel.overlap_weights,
        "overlapped reduction": run.parallel.overlap_gradients,
        f"{run.parallel.recompute} recomputation": run.parallel.recompute != "none",
    }


def _size(part: str, sizes: Mapping[str, int]) -> str:
    unit, name = next(((unit, name) for unit, name in UNITS if sizes[part] >= unit), (1.0, ""))
    return f"{part} {sizes[part] / unit:.3g} {name}".rstrip()


def _pace(rate: float) -> str:
    """How a part's learning rate differs from ``optim.learning_rate``."""
    return "" if rate == 1.0 else f" (learning rate x {rate:g})"
