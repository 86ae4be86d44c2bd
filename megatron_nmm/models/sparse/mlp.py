"""megatron-core's MoELayer with this package's router, experts and way between them."""

from functools import partial
from typing import Any

from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules

from megatron_nmm.config.schema import Dispatcher
from megatron_nmm.config.schema_model import SparseConfig
from megatron_nmm.models.sparse.dispatcher import KernelDispatcher
from megatron_nmm.models.sparse.experts import SparseExperts
from megatron_nmm.models.sparse.router import SparseRouter

MCORE_DISPATCHERS: dict[Dispatcher, str] = {
    "kernels": "alltoall",  # built by MoELayer and replaced at once; it holds no weights
    "allgather": "allgather",
    "alltoall": "alltoall",
    "deepep": "flex",
}
"""ParallelConfig.dispatcher -> megatron-core's ``moe_token_dispatcher_type``."""


class SparseMLP(MoELayer):
    """[T, 1, H] -> [T, 1, H] through ``top_k`` experts of each token."""

    def __init__(
        self,
        config: Any,
        *,
        sparse: SparseConfig,
        dispatcher: Dispatcher,
        experts: type[SparseExperts],
        align: int = 1,
        **settings: Any,
    ) -> None:
        """``config`` is megatron-core's TransformerConfig; ``settings`` are MoELayer's. ``align``: what our dispatcher
        makes every expert's rows a multiple of; megatron-core's experts fill up by themselves behind its own."""
        ours = dispatcher == "kernels"
        router = partial(SparseRouter, sparse=sparse, many_hot=not ours)
        super().__init__(config, MoESubmodules(experts=experts, router=router), **settings)
        if ours:
            self.token_dispatcher = KernelDispatcher(sparse.experts, config, settings["pg_collection"], align)
