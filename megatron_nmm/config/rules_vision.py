"""Relations inside the vision encoder; in early fusion (depth 0) it does not exist and none of them is asked."""

from collections.abc import Iterator

from megatron_nmm.config.fault import Fault, around, divisors, multiples_around, use
from megatron_nmm.config.schema import RunConfig


def vision_heads_split_width(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Heads share the encoder's width, and 2D RoPE turns pairs of each half of a head: one half a direction."""
    vision = run.model.vision
    width, heads = vision.width, vision.heads
    unit = 4 if vision.positions == "rotary" else 1
    if not vision.depth or width % (unit * heads) == 0:
        return
    if width % heads:
        fact = f"model.vision.width {width} is not divisible by model.vision.heads {heads}"
    else:
        fact = (
            f"the encoder's head width {vision.head_width} (model.vision.width {width} / model.vision.heads {heads}) "
            "is not divisible by 4, and RoPE turns pairs by row and by column"
        )
    legal = divisors(width // unit) if width % unit == 0 else []
    yield Fault(
        "model.vision.heads",
        fact,
        use(
            ("model.vision.heads", heads, around(heads, legal)),
            ("model.vision.width", width, multiples_around(width, unit * heads)),
        ),
    )


def full_layers_exist(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """Layers that see the whole view are layers of the encoder."""
    vision = run.model.vision
    beyond = [layer for layer in vision.full_layers if layer >= vision.depth]
    if vision.depth and beyond:
        fact = (
            f"model.vision.full_layers names layer {beyond[0]}, and model.vision.depth {vision.depth} has layers 0 to "
            f"{vision.depth - 1}"
        )
        kept = str([layer for layer in vision.full_layers if layer < vision.depth])
        deeper = [max(beyond) + 1]
        remedy = use(("model.vision.full_layers", 0, kept), ("model.vision.depth", vision.depth, deeper))
        yield Fault("model.vision.full_layers", fact, remedy)


def windows_hold_tokens(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """A window holds whole decoder tokens: the patches that the connector puts together attend together."""
    vision = run.model.vision
    if vision.depth and vision.window % vision.shuffle:
        fact = (
            f"model.vision.window {vision.window} is not a multiple of {vision.shuffle}, the side in patches of one "
            "token of the connector pixel_shuffle"
        )
        legal = multiples_around(vision.window, vision.shuffle)
        yield Fault("model.vision.window", fact, use(("model.vision.window", vision.window, legal)))


def positions_have_a_table(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """A table of positions has as many rows and columns as is said; only such a model says it."""
    vision, data = run.model.vision, run.data
    if not vision.depth or (vision.positions == "table") == (vision.table_side > 0):
        return
    if vision.table_side:
        fact = f"model.vision.table_side {vision.table_side} is of a table, and model.vision.positions is rotary"
        remedy = "use model.vision.positions table, or model.vision.table_side 0"
    else:
        fact = "model.vision.positions table has no rows: model.vision.table_side is 0"
        side = max(1, data.image_size // vision.patch) if data.image_rule == "square" else 32
        remedy = f"use model.vision.table_side {side}, or model.vision.positions rotary"
    yield Fault("model.vision.table_side", fact, remedy)


def class_token_has_a_place(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """A class token has a row in the table of positions, and belongs to a whole view."""
    vision = run.model.vision
    if not (vision.depth and vision.class_token):
        return
    if vision.positions == "rotary":
        fact = "model.vision.class_token true has no place in an image, and model.vision.positions rotary needs one"
        remedy = "use model.vision.positions table, or model.vision.class_token false"
        yield Fault("model.vision.class_token", fact, remedy)
    if vision.window:
        fact = (
            f"model.vision.class_token true attends with whole views, and model.vision.window {vision.window} cuts them"
        )
        yield Fault("model.vision.class_token", fact, "use model.vision.window 0, or model.vision.class_token false")


def tensor_splits_encoder(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """An encoder whose matrices are split has heads and an MLP that divide; spreading its images asks for nothing."""
    vision, tensor = run.model.vision, run.parallel.tensor
    if not vision.depth or run.parallel.vision != "tensor":
        return
    for key, size in (("model.vision.heads", vision.heads), ("model.vision.ffn", vision.ffn_width)):
        if size % tensor:
            fact = f"{key} {size} is not divisible by parallel.tensor {tensor}, and parallel.vision tensor splits it"
            yield Fault(key, fact, use(("parallel.vision", 0, "auto or data")))
