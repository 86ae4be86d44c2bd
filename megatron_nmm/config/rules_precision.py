"""Number formats: what an 8-bit recipe asks of layers, layout and sizes (recipes.py has its table)."""

import math
from collections.abc import Iterator

from megatron_nmm.config.fault import Fault, either, multiples_around, use
from megatron_nmm.config.recipes import PLAIN, facts
from megatron_nmm.config.schema import RunConfig


def plain_layers_fit(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Plain layers lie in the first and last stage, leave one to the recipe, and suit it."""
    precision, layers = run.precision, run.model.layers
    plain = precision.plain_first + precision.plain_last
    if precision.recipe == PLAIN or not plain:
        return
    key = "precision.plain_first" if precision.plain_first else "precision.plain_last"
    named = f"precision.plain_first {precision.plain_first} and precision.plain_last {precision.plain_last}"
    if precision.recipe == "fp8_delayed":
        fact = f"{named} need a recipe that starts anew in each layer, and fp8_delayed spans them all"
        yield Fault(key, fact, "use precision.recipe fp8_current, or 0 for both")
        return
    if plain >= layers:
        yield Fault(
            key, f"{named} leave none of model.layers {layers} to the recipe", f"let them add up to {layers - 1}"
        )
        return
    # megatron-core's own limit, whatever the stages really hold.
    most = layers // run.parallel.pipeline
    for name, count in (("plain_first", precision.plain_first), ("plain_last", precision.plain_last)):
        if count > most:
            fact = f"precision.{name} {count} is more than the {most} layers of a pipeline stage"
            yield Fault(f"precision.{name}", fact, f"use precision.{name} with a value of at most {most}")


def eight_bit_parameters_are_sharded(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Weights in 8 bits live beside fp32 ones that the distributed optimizer keeps, in Transformer Engine."""
    precision = run.precision
    if not precision.fp8_parameters:
        return
    key, fact = "precision.fp8_parameters", "precision.fp8_parameters true"
    if precision.recipe == PLAIN:
        remedy = "use precision.recipe fp8_current, or precision.fp8_parameters false"
        yield Fault(key, f"{fact} needs a recipe of 8 bits, and precision.recipe is plain", remedy)
    if precision.recipe == "mxfp8":
        # megatron-core gathers those through the gradient buffer, in a step that its own training loop takes.
        remedy = "use precision.recipe fp8_current, or precision.fp8_parameters false"
        yield Fault(key, f"{fact} does not go with precision.recipe mxfp8", remedy)
    if precision.emulate or run.device == "cpu":
        where = "precision.emulate is true" if precision.emulate else "device is cpu"
        yield Fault(key, f"{fact} is Transformer Engine's, and {where}", "use precision.fp8_parameters false")
    if not run.parallel.distributed_optimizer:
        remedy = "use parallel.distributed_optimizer true, or precision.fp8_parameters false"
        yield Fault(key, f"{fact} needs the fp32 weights of a distributed optimizer", remedy)


def products_suit_the_recipe(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """On a GPU, tokens and widths of every product are multiples of what its hardware takes; emulation takes any."""
    row = facts(run.precision)
    if row is None or run.precision.emulate or run.device != "gpu":
        return
    data, parallel = run.data, run.parallel
    ranks = parallel.tensor if parallel.sequence else 1
    tokens = data.microbatch * data.sequence_length
    if tokens % (row.rows * ranks):
        fact = (
            f"precision.recipe {run.precision.recipe} takes multiples of {row.rows} tokens on a rank, and "
            f"data.microbatch {data.microbatch} x data.sequence_length {data.sequence_length} over {ranks} rank(s) is "
            f"{tokens / ranks:g}"
        )
        unit = row.rows * ranks // math.gcd(row.rows * ranks, data.microbatch)
        lengths = multiples_around(data.sequence_length, unit)
        yield Fault(
            "data.sequence_length", fact, use(("data.sequence_length", data.sequence_length, lengths), _emulated())
        )
    for key, named, width, unit in _widths(run, row.columns):
        if width % unit:
            fact = f"precision.recipe {run.precision.recipe} takes {named} of multiples of {unit}, and it is {width}"
            yield Fault(key, fact, use((key, 0, f"so that it is {_listed(width, unit)}"), _emulated()))


def _emulated() -> tuple[str, float, str]:
    return ("precision.emulate", 0, "true")


def _listed(width: int, unit: int) -> str:
    return either(multiples_around(width, unit))


def _widths(run: RunConfig, unit: int) -> Iterator[tuple[str, str, int, int]]:
    """Inputs and outputs of all products: (key, what it is called, its size, what it is a multiple of)."""
    model, split = run.model, unit * run.parallel.tensor
    yield "model.width", "model.width", model.width, unit
    yield "model.head_dim", "heads x head width", model.heads * model.head_width, split
    yield "model.head_dim", "key/value heads x head width", model.kv_heads * model.head_width, split
    yield "model.ffn", "model.ffn", model.ffn_width, split
    if model.sparse_layers:
        yield "model.sparse.ffn", "the width of an expert", model.expert_width, unit
    if model.vision.depth:
        yield "model.vision.width", "model.vision.width", model.vision.width, unit
        yield "model.vision.ffn", "model.vision.ffn", model.vision.ffn_width, unit
