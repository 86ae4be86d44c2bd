"""Relations between the shape of the decoder and the way it is spread over processes."""

import math
from collections.abc import Iterator

from megatron_nmm.config.fault import WORLD, Fault, around, divisors, multiples_around, use
from megatron_nmm.config.schema import RunConfig
from megatron_nmm.config.schema_model import ModelConfig


def heads_split_width(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Heads share the width evenly or have a width of their own, and RoPE turns the numbers of a head in pairs."""
    model = run.model
    if model.head_dim is not None:
        if model.head_dim % 2:
            fact = f"model.head_dim {model.head_dim} is odd, and RoPE turns pairs"
            yield Fault("model.head_dim", fact, use(("model.head_dim", model.head_dim, _even_around(model.head_dim))))
        return
    if model.width % model.heads:
        fact = f"model.width {model.width} is not divisible by model.heads {model.heads}"
    elif model.head_width % 2:
        fact = (
            f"the head width {model.head_width} (model.width {model.width} / model.heads {model.heads}) is odd, "
            "and RoPE turns pairs"
        )
    else:
        return
    widths = multiples_around(model.width, 2 * model.heads)
    heads = around(model.heads, _legal_heads(run))
    yield Fault("model.heads", fact, use(("model.heads", model.heads, heads), ("model.width", model.width, widths)))


def groups_split_heads(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Every key/value head serves the same number of attention heads."""
    model, tensor = run.model, run.parallel.tensor
    if model.query_groups is not None and model.heads % model.query_groups:
        fact = f"model.heads {model.heads} is not divisible by model.query_groups {model.query_groups}"
        legal = [d for d in divisors(model.heads) if d % tensor == 0] or divisors(model.heads)
        yield Fault("model.query_groups", fact, use(("model.query_groups", model.query_groups, legal)))


def tensor_splits_model(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Every split dimension is divisible by the tensor-parallel size."""
    model, tensor = run.model, run.parallel.tensor
    legal = divisors(_tensor_unit(model))
    resized = {
        "model.heads": around(model.heads, [h for h in _legal_heads(run) if h % tensor == 0]),
        "model.query_groups": around(model.kv_heads, [d for d in divisors(model.heads) if d % tensor == 0]),
        "model.ffn": multiples_around(model.ffn_width, tensor),
        # Only up: the table must keep a row for every piece of the tokenizer.
        "model.vocabulary": multiples_around(model.vocabulary, tensor)[-1:],
    }
    for key, size in _split_sizes(model).items():
        if size % tensor:
            yield Fault(
                key,
                f"{key} {size} is not divisible by parallel.tensor {tensor}",
                use(("parallel.tensor", tensor, legal), (key, size, resized[key])),
            )


def world_holds_layout(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """The processes divide into whole copies of the model."""
    parallel, copy = run.parallel, run.parallel.of_copy
    tensor, context, stages = parallel.tensor, parallel.context, parallel.pipeline
    if world_size % copy:
        of_world = divisors(world_size)
        tensors = [t for t in divisors(_tensor_unit(run.model)) if t * context * stages in of_world]
        fixed = parallel.stage_layers
        pipelines = [p for p in of_world if p * tensor * context in of_world and p <= run.model.layers and not fixed]
        sizes = " x ".join(f"parallel.{name} {size}" for name, size in parallel.shape.items())
        yield Fault(
            WORLD,
            f"the world size {world_size} is not divisible by {sizes} = {copy} processes for one copy of the model",
            use(
                ("a world size of", world_size, multiples_around(world_size, copy)),
                ("parallel.tensor", tensor, tensors),
                ("parallel.context", context, [c for c in _contexts(run) if c * tensor * stages in of_world]),
                ("parallel.pipeline", stages, pipelines),
            ),
        )


def context_cuts_rows(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Context ranks share every row in chunks of one size, two each."""
    length, context = run.data.sequence_length, run.parallel.context
    if length % run.parallel.chunks:
        yield Fault(
            "parallel.context",
            f"data.sequence_length {length} is not divisible by 2 x parallel.context {context} = "
            f"{run.parallel.chunks} chunks of a row",
            use(
                ("parallel.context", context, _contexts(run)),
                ("data.sequence_length", length, multiples_around(length, run.parallel.chunks)),
            ),
        )


def sequence_parallel_splits_rows(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Sequence parallelism spreads the tokens of a microbatch evenly over a tensor group of at least two."""
    data, tensor, context, chunks = run.data, run.parallel.tensor, run.parallel.context, run.parallel.chunks
    if not run.parallel.sequence or data.sequence_length % chunks:
        return
    if tensor == 1:
        yield Fault(
            "parallel.sequence",
            "parallel.sequence true splits tokens over the tensor group, and parallel.tensor is 1",
            use(("parallel.tensor", tensor, divisors(_tensor_unit(run.model))), ("parallel.sequence", True, "false")),
        )
    elif data.microbatch * data.sequence_length % (context * tensor):
        unit = math.lcm(chunks, context * tensor // math.gcd(context * tensor, data.microbatch))
        tokens = data.microbatch * data.sequence_length
        shared = f" over parallel.context {context}" if context > 1 else ""
        yield Fault(
            "data.sequence_length",
            f"data.microbatch {data.microbatch} x data.sequence_length {data.sequence_length} = {tokens} tokens"
            f"{shared} are not divisible by parallel.tensor {tensor}, as parallel.sequence needs",
            use(
                ("data.sequence_length", data.sequence_length, multiples_around(data.sequence_length, unit)),
                ("parallel.sequence", True, "false"),
            ),
        )


def overlap_has_shards(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Weights are gathered where ranks update shards of them, and in the buckets of overlapped reductions."""
    parallel = run.parallel
    if not parallel.overlap_weights:
        return
    lacking = [key for key in ("distributed_optimizer", "overlap_gradients") if not getattr(parallel, key)]
    if lacking:
        facts = " and ".join(f"parallel.{key} is false" for key in lacking)
        remedy = " with ".join(f"parallel.{key} true" for key in lacking)
        yield Fault(
            "parallel.overlap_weights",
            f"parallel.overlap_weights true gathers shards in the buckets that gradients are reduced in, and {facts}",
            f"use {remedy}, or parallel.overlap_weights false",
        )


def batch_divides(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """A step is a whole number of microbatches on every data-parallel rank."""
    data, data_size = run.data, _data_size(run, world_size)
    if data_size and data.global_batch % (data.microbatch * data_size):
        unit = data.microbatch * data_size
        smaller = [] if data.global_batch % data_size else divisors(data.global_batch // data_size)
        yield Fault(
            "data.global_batch",
            f"data.global_batch {data.global_batch} is not divisible by data.microbatch {data.microbatch} x data "
            f"parallel size {data_size} = {unit}",
            use(
                ("data.global_batch", data.global_batch, multiples_around(data.global_batch, unit)),
                ("data.microbatch", data.microbatch, around(data.microbatch, smaller)),
            ),
        )


def _data_size(run: RunConfig, world_size: int) -> int | None:
    """Data-parallel size; None when the world does not divide into whole copies of the model."""
    return None if world_size % run.parallel.of_copy else world_size // run.parallel.of_copy


def _contexts(run: RunConfig) -> list[int]:
    """Context sizes whose chunks divide a row evenly."""
    length = run.data.sequence_length
    return divisors(length // 2) if length % 2 == 0 else [1]


def _split_sizes(model: ModelConfig) -> dict[str, int]:
    """Every dimension that the tensor group splits, by key."""
    groups = {} if model.query_groups is None else {"model.query_groups": model.query_groups}
    sizes = {"model.heads": model.heads, "model.ffn": model.ffn_width, "model.vocabulary": model.vocabulary}
    return sizes | groups


def _tensor_unit(model: ModelConfig) -> int:
    """Greatest common divisor of every split dimension: its divisors are the legal tensor-parallel sizes."""
    return math.gcd(*_split_sizes(model).values())


def _legal_heads(run: RunConfig) -> list[int]:
    """Head counts that divide the width into even heads and suit the key/value groups and the tensor group."""
    model = run.model
    unit = math.lcm(run.parallel.tensor, model.query_groups or 1)
    if model.head_dim is not None:
        return multiples_around(model.heads, unit)
    return [h for h in divisors(model.width) if model.width // h % 2 == 0 and h % unit == 0]


def _even_around(number: int) -> list[int]:
    """The even numbers next to an odd one."""
    return multiples_around(number, 2)
