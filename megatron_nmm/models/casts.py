"""The products of a model that are emulated in 8 bits, by name: what telemetry counts on."""

from collections.abc import Iterator
from typing import Any, cast

import torch

from megatron_nmm.models.sparse.emulated import EmulatedExperts
from megatron_nmm.precision.emulate import EmulatedProduct
from megatron_nmm.precision.product import Counts


def counted_products(model: torch.nn.Module) -> Iterator[tuple[str, Counts]]:
    """(name, counts) of every product of this rank's stage; ``model`` is inside DistributedDataParallel.

    Names are as ``decoder.3.mlp.linear_fc1``, layers from 1 over all stages; experts of a layer have one name together.
    """
    inner: Any = cast(Any, model).module
    blocks = {"decoder": inner.decoder, "vision": getattr(getattr(inner, "vision_encoder", None), "block", None)}
    for block, layers in ((name, each.layers) for name, each in blocks.items() if each is not None):
        for layer in layers:
            for path, module in layer.named_modules():
                for product, counts in _counts(module):
                    yield f"{block}.{layer.layer_number}.{path}{product}", counts


def _counts(module: torch.nn.Module) -> Iterator[tuple[str, Counts]]:
    """Of one module: ("", its own), or (".linear_fc1", each expert's)."""
    own = vars(module).get("_forward_impl")
    if isinstance(own, EmulatedProduct):
        yield "", own.counts
    if isinstance(module, EmulatedExperts):
        for name, products in module.products.items():
            yield from ((f".{name}", counts) for _, counts in products)
