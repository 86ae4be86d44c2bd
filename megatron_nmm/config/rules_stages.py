"""Relations between the decoder's layers, the pipeline's stages and the microbatches that go through them."""

from collections.abc import Iterator

from megatron_nmm.config.fault import Fault, multiples_around, use
from megatron_nmm.config.schema import ParallelConfig, RunConfig

FEWEST_RANKS = 3
"""Pipeline ranks under virtual stages. Between two, neighbours before and after are one rank: megatron-core puts two
messages for it into one batch, and they get mixed up."""


def stages_hold_layers(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Planned or given, the stages hold every layer of the decoder, and none between the first and the last is empty.

    The first stage also has the embeddings and the image part, the last one the output layer.
    """
    parallel, layers = run.parallel, run.model.layers
    stages, virtual, given = parallel.stages, parallel.virtual_stages, parallel.stage_layers
    told = f"parallel.stage_layers {list(given)}"
    planned = ("parallel.stage_layers", 0, "[]")
    if not given:
        if layers < stages:
            fact = f"model.layers {layers} is fewer than {_stages(parallel)}, and every stage needs a layer"
            rounds = [layers // parallel.pipeline] if virtual > 1 and layers >= parallel.pipeline else []
            fewer = ("parallel.pipeline", parallel.pipeline, [layers] if virtual == 1 else [])
            more = ("model.layers", layers, [stages])
            yield Fault("parallel.pipeline", fact, use(fewer, ("parallel.virtual_stages", virtual, rounds), more))
    elif len(given) != stages:
        fits = [len(given) // virtual] if len(given) % virtual == 0 else []
        found = f"parallel.pipeline is {stages}" if virtual == 1 else f"there are {_stages(parallel)}"
        fact = f"{told} is for {len(given)} pipeline stages, and {found}"
        yield Fault("parallel.stage_layers", fact, use(planned, ("parallel.pipeline", parallel.pipeline, fits)))
    elif sum(given) != layers:
        fact = f"{told} holds {sum(given)} layers, and model.layers is {layers}"
        yield Fault("parallel.stage_layers", fact, use(planned, ("model.layers", layers, [sum(given) or 1])))
    elif 0 in given[1:-1]:
        fact = f"{told} leaves a stage between the first and the last one without a layer"
        yield Fault("parallel.stage_layers", fact, use(planned))


def virtual_stages_have_ranks(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Stages are dealt over at least three ranks."""
    virtual, pipeline = run.parallel.virtual_stages, run.parallel.pipeline
    if virtual > 1 and pipeline < FEWEST_RANKS:
        why = (
            "deals stages over pipeline ranks, and there is one"
            if pipeline == 1
            else "has the ranks before and after each be the same one, whose messages megatron-core mixes up"
        )
        longer = [ranks for ranks in (3, 4) if ranks * virtual <= run.model.layers]
        yield Fault(
            "parallel.virtual_stages",
            f"parallel.virtual_stages {virtual} with parallel.pipeline {pipeline} {why}",
            use(("parallel.virtual_stages", virtual, [1]), ("parallel.pipeline", pipeline, longer)),
        )


def microbatches_fill_rounds(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Under virtual stages microbatches go through the ranks in rounds of the pipeline's size."""
    data, parallel = run.data, run.parallel
    if parallel.virtual_stages == 1 or world_size % parallel.of_copy:
        return
    each = data.microbatch * (world_size // parallel.of_copy)
    if data.global_batch % each == 0 and data.global_batch // each % parallel.pipeline:
        rounds = multiples_around(data.global_batch, each * parallel.pipeline)
        yield Fault(
            "data.global_batch",
            f"data.global_batch {data.global_batch} makes {data.global_batch // each} microbatches on each data rank, "
            f"and parallel.virtual_stages {parallel.virtual_stages} takes multiples of parallel.pipeline "
            f"{parallel.pipeline}",
            use(
                ("data.global_batch", data.global_batch, rounds),
                ("parallel.virtual_stages", parallel.virtual_stages, [1]),
            ),
        )


def _stages(parallel: ParallelConfig) -> str:
    """The stages by what makes them up."""
    if parallel.virtual_stages == 1:
        return f"parallel.pipeline {parallel.pipeline}"
    return (
        f"parallel.pipeline {parallel.pipeline} x parallel.virtual_stages {parallel.virtual_stages} = "
        f"{parallel.stages} stages"
    )
