"""A transformer layer that tells its experts which rows are whose.

megatron-core hands ``packed_seq_params`` to a layer but not to its linear layers or MLP. Binding the routing as the
layer starts also serves recomputed layers and interleaved microbatches: each pass comes through here with its own.
"""

from typing import Any

from megatron.core.transformer.transformer_layer import TransformerLayer

from megatron_nmm.models.experts.routing import Routed


class ModalityLayer(TransformerLayer):
    """megatron-core's layer around Routed modules."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """As megatron-core's layer."""
        super().__init__(*arguments, **settings)
        # A tuple registers nothing; the routed modules stay where they are.
        self._routed = tuple(module for module in self.modules() if isinstance(module, Routed))

    def forward(self, *arguments: Any, **settings: Any) -> Any:
        """As megatron-core's, with an AttentionPlan as ``packed_seq_params``."""
        for module in self._routed:
            module.routing = settings["packed_seq_params"].routing
        return super().forward(*arguments, **settings)
