"""Virtual stages: several chunks of the decoder on one pipeline rank, one model to everybody but the schedule.

megatron-core's interleaved schedule wants a list of models, each wrapped by itself; measuring, saving and stepping want
all parameters of the rank under names of their own.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch


class VirtualStages(torch.nn.Module):
    """What megatron-core's DistributedDataParallel is to one chunk, for several: the parts of it that others use."""

    def __init__(self, chunks: Sequence[torch.nn.Module]) -> None:
        """``chunks`` are DistributedDataParallel models, in the order of their stages."""
        super().__init__()
        self.chunks = torch.nn.ModuleList(chunks)
        whole: Any = self
        whole.buffers = [buffer for chunk in chunks for buffer in cast(Any, chunk).buffers]
        whole.expert_parallel_buffers = [b for chunk in chunks for b in cast(Any, chunk).expert_parallel_buffers]
        # A tuple registers nothing: the weights are those of the chunks.
        self._inner = (_Chunks([cast(Any, chunk).module for chunk in chunks]),)

    @property
    def module(self) -> "_Chunks":
        """The chunks without what is wrapped around them."""
        return self._inner[0]


class _Chunks(torch.nn.Module):
    """The bare chunks; parameters are called ``chunks.<number>.<name in the chunk>``."""

    def __init__(self, chunks: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.chunks = torch.nn.ModuleList(chunks)

    @property
    def decoder(self) -> SimpleNamespace:
        """``layers``: the decoder layers of all chunks, in the decoder's order."""
        return SimpleNamespace(layers=[layer for chunk in self.chunks for layer in cast(Any, chunk).decoder.layers])

    def sharded_state_dict(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """megatron-core's map of shards, under the names of this rank; their keys are those of the whole model."""
        return {
            f"chunks.{number}.{name}": entry
            for number, chunk in enumerate(self.chunks)
            for name, entry in cast(Any, chunk).sharded_state_dict(metadata=metadata).items()
        }


def stage_chunks(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The DistributedDataParallel models behind ``model``: itself, or its virtual stages."""
    return list(model.chunks) if isinstance(model, VirtualStages) else [model]
