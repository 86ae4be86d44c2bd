"""How large the hidden rows of text and of images are after every decoder layer: hooks that stay for one step.

A row's size is its root mean square over channels; a layer's figure is the mean over rows, not their root mean square:
a few tokens with massive activations (arXiv 2402.17762) would be all that one shows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

from megatron_nmm.parallel.world import World

TEXT, VISUAL = 0, 1
"""Places of the modalities. Visual rows are those visual experts would take; padding counts as text."""


class FeatureSums:
    """[layers, modalities, 2] fp64: sums over rows of their size, and the rows; sums of all ranks add up."""

    def __init__(self, layers: int, world: World) -> None:
        self._world = world
        self.sums = torch.zeros(layers, 2, 2, dtype=torch.float64, device=world.device.torch_device)

    @contextmanager
    def watching(self, model: torch.nn.Module) -> Iterator[None]:
        """Add up what the decoder layers of ``model`` put out while the block runs, each microbatch once."""
        # Without sequence parallelism all tensor ranks hold the same rows: the first one speaks for them.
        speaks = self._world.parallel.sequence or self._world.tensor_rank == 0
        layers = cast(Any, model).module.decoder.layers if speaks else ()
        handles = [layer.register_forward_hook(self._add, with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _add(self, layer: Any, inputs: Any, options: dict[str, Any], output: Any) -> None:
        """A layer's output [T (/ t), 1, H], T flat rows and t tensor ranks."""
        if self._world.parallel.recompute == "full" and torch.is_grad_enabled():
            return  # the pass that repeats, during the backward pass, what the first one did without a graph
        routing = options["packed_seq_params"].routing
        hidden = output[0] if isinstance(output, tuple) else output
        size = hidden.detach().float().square().mean(-1).sqrt().flatten()
        first = self._world.tensor_rank * len(size) if self._world.parallel.sequence else 0
        visual = routing.home[first : first + len(size)] >= routing.text
        for modality, rows in ((TEXT, ~visual), (VISUAL, visual)):
            # Chosen, not multiplied: a row that is not finite must not reach the other modality.
            chosen = torch.where(rows, size, 0.0).sum(dtype=torch.float64)
            self.sums[layer.layer_number - 1, modality] += torch.stack([chosen, rows.sum(dtype=torch.float64)])
