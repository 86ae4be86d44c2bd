"""A transformer layer that hands the microbatch's plan to those of its modules that read it.

megatron-core hands ``packed_seq_params`` to a layer but not to its linear layers, its MLP or its router. Binding the
plan as the layer starts also serves recomputed layers and interleaved microbatches: each pass comes through here with
its own.
"""

from typing import Any

from megatron.core.transformer.transformer_layer import TransformerLayer

from megatron_nmm.models.experts.routing import Routing


class Planned:
    """A module that reads ``plan``, the AttentionPlan of the microbatch it works on; the layer around it sets it."""

    plan: Any

    @property
    def routing(self) -> Routing:
        """Which rows are text, which are visual."""
        routing: Routing = self.plan.routing
        return routing


class PlannedLayer(TransformerLayer):
    """megatron-core's layer around Planned modules."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """As megatron-core's layer."""
        super().__init__(*arguments, **settings)
        # A tuple registers nothing; the planned modules stay where they are.
        self._planned = tuple(module for module in self.modules() if isinstance(module, Planned))

    def forward(self, *arguments: Any, **settings: Any) -> Any:
        """As megatron-core's, with an AttentionPlan as ``packed_seq_params``."""
        for module in self._planned:
            module.plan = settings["packed_seq_params"]
        return super().forward(*arguments, **settings)
