"""What values of the tree ask of each other, as a table of rules: the keys a rule reads and the function that judges.

A rule runs only when every key it reads is in order by itself, so it never divides by zero and never repeats a fault.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from megatron_nmm.config.fault import Fault, around, divisors, multiples_around, use
from megatron_nmm.config.schema import ModelConfig, RunConfig

WORLD = "world size"
"""Pseudo key of the number of processes, which is no part of the tree."""

Judge = Callable[[RunConfig, int], Iterator[Fault]]


@dataclass(frozen=True)
class Rule:
    """One relation between values."""

    reads: tuple[str, ...]
    """Keys (or groups of keys) that must be in order by themselves before the rule makes sense."""
    judge: Judge


def early_fusion_only(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """``vision.depth`` is one axis from early to late fusion, and only its first point is built."""
    depth = run.model.vision.depth
    if depth > 0:
        fact = f"model.vision.depth {depth} asks for a vision encoder, and only early fusion (depth 0) is built so far"
        yield Fault("model.vision.depth", fact, "use model.vision.depth 0")


def heads_split_width(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Heads share the width evenly, and RoPE turns the numbers of a head in pairs."""
    model = run.model
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


def stages_are_equal(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Every pipeline stage holds the same number of layers."""
    layers, stages = run.model.layers, run.parallel.pipeline
    if layers % stages:
        yield Fault(
            "parallel.pipeline",
            f"model.layers {layers} is not divisible by parallel.pipeline {stages}",
            use(
                ("parallel.pipeline", stages, divisors(layers)),
                ("model.layers", layers, multiples_around(layers, stages)),
            ),
        )


def world_holds_layout(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """The processes divide into whole copies of the model."""
    tensor, stages = run.parallel.tensor, run.parallel.pipeline
    if world_size % (tensor * stages):
        of_world = divisors(world_size)
        tensors = [t for t in divisors(_tensor_unit(run.model)) if t * stages in of_world]
        pipelines = [p for p in divisors(run.model.layers) if p * tensor in of_world]
        yield Fault(
            WORLD,
            f"the world size {world_size} is not divisible by parallel.tensor {tensor} x parallel.pipeline {stages} "
            f"= {tensor * stages} processes for one copy of the model",
            use(
                ("a world size of", world_size, multiples_around(world_size, tensor * stages)),
                ("parallel.tensor", tensor, tensors),
                ("parallel.pipeline", stages, pipelines),
            ),
        )


def sequence_parallel_splits_rows(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Sequence parallelism spreads the tokens of a microbatch evenly over a tensor group of at least two."""
    data, tensor = run.data, run.parallel.tensor
    if not run.parallel.sequence:
        return
    if tensor == 1:
        yield Fault(
            "parallel.sequence",
            "parallel.sequence true splits tokens over the tensor group, and parallel.tensor is 1",
            use(("parallel.tensor", tensor, divisors(_tensor_unit(run.model))), ("parallel.sequence", True, "false")),
        )
    elif data.microbatch * data.sequence_length % tensor:
        unit = tensor // math.gcd(tensor, data.microbatch)
        tokens = data.microbatch * data.sequence_length
        yield Fault(
            "data.sequence_length",
            f"data.microbatch {data.microbatch} x data.sequence_length {data.sequence_length} = {tokens} tokens are "
            f"not divisible by parallel.tensor {tensor}, as parallel.sequence needs",
            use(
                ("data.sequence_length", data.sequence_length, multiples_around(data.sequence_length, unit)),
                ("parallel.sequence", True, "false"),
            ),
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


def patches_tile_images(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """A square image is a whole number of patches, one token each, and fits into one packed row."""
    if run.data.image_rule != "square":
        return
    size, patch, length = run.data.image_size, run.model.vision.patch, run.data.sequence_length
    side = size // patch
    largest = math.isqrt(length) * patch
    if size % patch:
        legal = [s for s in multiples_around(size, patch) if s <= largest] or [largest]
        fact = f"data.image_size {size} is not a multiple of model.vision.patch {patch}"
        yield Fault("data.image_size", fact, use(("data.image_size", size, legal)))
    elif side * side > length:
        tokens = side * side
        fact = (
            f"data.image_size {size} makes {side} x {side} = {tokens} tokens, more than data.sequence_length {length}"
        )
        remedy = use(("data.image_size", size, [largest]), ("data.sequence_length", length, [tokens]))
        yield Fault("data.image_size", fact, remedy)


def native_images_fit(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Under the native rule images keep their shape, and the smallest of them fits into one packed row."""
    data = run.data
    if data.image_rule != "native":
        if data.multi_scale:
            fact = "data.multi_scale true needs images of native size, and data.image_rule is square"
            yield Fault("data.multi_scale", fact, "use data.image_rule native, or data.multi_scale false")
        return
    if data.min_patches > data.max_patches:
        fact = f"data.min_patches {data.min_patches} is more than data.max_patches {data.max_patches}"
        yield Fault("data.min_patches", fact, use(("data.min_patches", data.min_patches, [data.max_patches])))
    # Early fusion spends one token on a patch, an encoder's connector one on 2 x 2.
    merged = 1 if run.model.vision.depth == 0 else 4
    tokens = data.min_patches // merged
    if tokens >= data.sequence_length:
        fact = (
            f"data.min_patches {data.min_patches} makes at least {tokens} tokens of an image, and with its line ends "
            f"none fits into data.sequence_length {data.sequence_length}"
        )
        fewer, longer = [merged * max(1, data.sequence_length // 2)], [2 * tokens]
        remedy = use(
            ("data.min_patches", data.min_patches, fewer), ("data.sequence_length", data.sequence_length, longer)
        )
        yield Fault("data.min_patches", fact, remedy)
    if data.augment:
        fact = "data.augment true cuts squares out of images, and data.image_rule native keeps their shape"
        yield Fault("data.augment", fact, "use data.augment false, or data.image_rule square")


def warmup_fits(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """The run is long enough to end its warm-up."""
    warmup = run.schedule.warmup
    if warmup is not None and warmup > run.steps:
        fact = f"schedule.warmup {warmup} is more than steps {run.steps}"
        yield Fault(
            "schedule.warmup", fact, use(("schedule.warmup", warmup, [run.steps]), ("steps", run.steps, [warmup]))
        )


def decay_shrinks(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """A decoupled decay takes its share of every weight each step, so at 1 nothing is left."""
    decay = run.optim.weight_decay
    if run.optim.decoupled and decay >= 1:
        fact = f"optim.weight_decay {decay:g} with optim.decoupled true takes away the whole weight at every step"
        yield Fault("optim.weight_decay", fact, "use optim.weight_decay with a value below 1, e.g. 0.0001")


def name_is_a_word(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """The run's name labels plots and log folders, so it is one plain path component."""
    if not run.name.strip() or not run.name.isprintable() or "/" in run.name or run.name in (".", ".."):
        yield Fault("name", f"name {run.name!r} cannot label files", "use a name of letters, digits, '-', '_' and '.'")


def folder_is_named(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """A run writes somewhere."""
    if not run.folder.strip() or "\0" in run.folder:
        yield Fault("folder", f"folder {run.folder!r} names no place", f"use folder runs/{run.name.strip() or 'run'}")


SHAPE = ("model.width", "model.heads", "model.query_groups", "model.ffn", "model.vocabulary", "parallel.tensor")
NATIVE = ("data.min_patches", "data.max_patches", "data.multi_scale", "data.augment")
LAYOUT = ("parallel.tensor", "parallel.pipeline", WORLD)

RULES: tuple[Rule, ...] = (
    Rule(("name",), name_is_a_word),
    Rule(("name", "folder"), folder_is_named),
    Rule(("model.vision.depth",), early_fusion_only),
    Rule(SHAPE, heads_split_width),
    Rule(SHAPE, groups_split_heads),
    Rule(SHAPE, tensor_splits_model),
    Rule(("model.layers", "parallel.pipeline"), stages_are_equal),
    Rule((*SHAPE, *LAYOUT, "model.layers"), world_holds_layout),
    Rule((*SHAPE, "parallel.sequence", "data.microbatch", "data.sequence_length"), sequence_parallel_splits_rows),
    Rule((*LAYOUT, "data.microbatch", "data.global_batch"), batch_divides),
    Rule(("data.image_size", "model.vision.patch", "data.sequence_length", "data.image_rule"), patches_tile_images),
    Rule((*NATIVE, "data.image_rule", "data.sequence_length", "model.vision.depth"), native_images_fit),
    Rule(("steps", "schedule.warmup"), warmup_fits),
    Rule(("optim.weight_decay", "optim.decoupled"), decay_shrinks),
)


def _data_size(run: RunConfig, world_size: int) -> int | None:
    """Data-parallel size; None when the world does not divide into whole copies of the model."""
    copy = run.parallel.tensor * run.parallel.pipeline
    return None if world_size % copy else world_size // copy


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
    return [h for h in divisors(model.width) if model.width // h % 2 == 0 and h % unit == 0]
