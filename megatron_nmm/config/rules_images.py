"""Relations between images and the packed rows that hold their tokens."""

import math
from collections.abc import Iterator

from megatron_nmm.config.fault import Fault, multiples_around, use
from megatron_nmm.config.schema import RunConfig


def patches_tile_images(run: RunConfig, world_size: int) -> Iterator[Fault]:
    """A square image is a whole number of tokens, of one patch or of 2 x 2, and fits into one packed row."""
    if run.data.image_rule != "square":
        return
    size, vision, length = run.data.image_size, run.model.vision, run.data.sequence_length
    token = vision.patch * vision.shuffle
    side = size // token
    largest = math.isqrt(length) * token
    if size % token:
        legal = [s for s in multiples_around(size, token) if s <= largest] or [largest]
        fact = f"data.image_size {size} is not a multiple of model.vision.patch {vision.patch}"
        if vision.shuffle > 1:
            fact += f" x {vision.shuffle}, the side of one token of the connector pixel_shuffle"
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
    merged = run.model.vision.shuffle**2
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
