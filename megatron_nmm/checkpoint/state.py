"""Model and optimizer as one sharded state: megatron-core's ``torch_dist`` format, written and read by all ranks.

Loading is megatron-core's own ``dist_checkpointing.load``. Writing uses the same parts as its ``save`` (preprocessing,
planner, file layout: any Megatron reads the result) around torch's collective writer instead of the asynchronous one:
that one starts a Python process per rank for a result queue, and leaves other ranks waiting in a collective when rank 0
cannot write its metadata.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor
from megatron.core.dist_checkpointing.state_dict_utils import load_preprocess, save_preprocess
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from megatron_nmm.checkpoint.agree import from_torch, on_main
from megatron_nmm.config.recipes import is_state
from megatron_nmm.parallel.world import World
from megatron_nmm.parallel.wrap import complete_weights

FORMAT = CheckpointingConfig(sharded_backend="torch_dist", sharded_backend_version=1)
NAMES = {"non_homogeneous_layers": True}
"""Every layer under its own number ("decoder.layers.3.mlp..."): the names that the rest of the package uses."""


EXTRA = "_extra_state"
"""What the names of objects end with that a layer may have beside its weights."""

Shapes = dict[str, tuple[int, ...]]
CONTAINER = 2048
"""Bytes of the archive that torch puts around each tensor, rounded up."""


class Optimizer(Protocol):
    """What a checkpoint needs of an optimizer (train/optim.py)."""

    def sharded_state_dict(self, model_sharded_state_dict: dict[str, Any], is_loading: bool) -> dict[str, Any]:
        """State as a tree with megatron-core's ShardedTensor leaves, for saving or as the mould for loading."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the tree that was filled by loading."""


def sharded(model: Any, optimizer: Optimizer | None, world: World, *, is_loading: bool) -> dict[str, Any]:
    """The state of ``model`` (inside megatron-core's DistributedDataParallel) and, if given, its optimizer.

    Collective: every rank calls it, because a sharded optimizer gathers its state here.
    """
    if not is_loading:
        complete_weights(model)
    entries = model.module.sharded_state_dict(metadata={**NAMES, "dp_cp_group": world.groups.dp_cp})
    weights = {name: entry for name, entry in entries.items() if not _pickled(entry)}
    state = {"model": weights}
    if optimizer is not None:
        state["optimizer"] = optimizer.sharded_state_dict(weights, is_loading)
    return state


def _pickled(entry: Any) -> bool:
    """Whether it is what a layer of Transformer Engine remembers, a pickle: that is neither written nor read.

    Delayed scaling there begins anew when a run goes on. Layers of megatron-core's own have an empty object here.
    """
    return isinstance(entry, ShardedObject) and entry.data is not None and entry.key.endswith(EXTRA)


class Shards:
    """What this rank writes of a state. Collective to build: ranks check that together they hold each element once."""

    def __init__(self, state: dict[str, Any], world: World) -> None:
        parts, common = save_preprocess(state)
        parts["common_state"] = ShardedObject("common_state", common, (1,), (0,), replica_id=world.rank)
        self._by_key, _, _ = _replace_state_dict_keys_with_sharded_keys(parts, keep_only_main_replica=True)
        self._world = world

    @property
    def bytes(self) -> int:
        """About how many bytes this rank writes, an upper bound in practice."""
        tensors = (part for parts in self._by_key.values() for part in parts if isinstance(part, ShardedTensor))
        return sum(part.data.nbytes + CONTAINER for part in tensors)

    def write(self, folder: Path) -> None:
        """Write all ranks' parts into ``folder``. Collective; raises RankFailure on every rank when one cannot write.

        Files are not flushed here: sealing them for the manifest does that.
        """
        try:
            save_tensors(
                mcore_to_pyt_state_dict(self._by_key),
                storage_writer=FileSystemWriter(folder, sync_files=False),
                planner=MCoreSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
            )
        except CheckpointException as error:
            raise from_torch("writing tensors", error) from error
        on_main(self._world, "writing the format note", lambda: save_config(FORMAT, str(folder)))


@contextmanager
def each_for_itself() -> Iterator[None]:
    """Around reading: every rank reads alone, on purpose; torch takes that for a forgotten process group each time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled|The argument order of load")
        yield


def shapes(state: dict[str, Any]) -> Shapes:
    """Name and whole shape of every tensor this rank has a part of."""
    parts, _, _ = load_preprocess(state)
    return {part.key: tuple(part.global_shape) for part in nested_values(parts) if isinstance(part, ShardedTensor)}


def stored_shapes(folder: Path) -> Shapes:
    """Name and shape of every tensor in a checkpoint."""
    stored = dist_checkpointing.load_tensors_metadata(str(folder))
    return {name: tuple(part.global_shape) for name, part in stored.items()}


def forget_state(state: dict[str, Any], stored: Shapes) -> None:
    """Take out of ``state`` what number formats remember and the checkpoint does not have in this shape."""
    for name, entry in list(state["model"].items()):
        if is_state(name) and stored.get(entry.key) != tuple(entry.global_shape):
            del state["model"][name]


def read(folder: Path, state: dict[str, Any], model: Any, optimizer: Optimizer | None) -> None:
    """Fill ``model`` and ``optimizer`` from ``folder``, where ``state`` is ``sharded(..., is_loading=True)``.

    Free of collectives.
    """
    # Which rank holds which element was checked when the state was saved; the check here would only add a collective.
    loaded = dist_checkpointing.load(state, str(folder), validate_access_integrity=False)
    own = model.module.state_dict()
    fresh = {name: value for name, value in own.items() if is_state(name) or name.endswith(EXTRA)}
    model.module.load_state_dict({**fresh, **loaded["model"]})
    if optimizer is not None:
        optimizer.load_state_dict(loaded["optimizer"])


def fill(folder: Path, entries: dict[str, Any], model: Any) -> None:
    """Fill only the tensors ``entries`` of ``model``, each from the stored tensor that its ``key`` names.

    ``entries`` is a part of ``sharded(...)["model"]``, without objects. What is read with fewer dimensions than the
    model's tensor fills all of it: each of several experts. Free of collectives.
    """
    if not entries:  # a rank may hold nothing that is read
        return
    loaded = dist_checkpointing.load({"model": entries}, str(folder), validate_access_integrity=False)
    own = model.module.state_dict()
    read = {name: value.expand_as(own[name]) for name, value in loaded["model"].items()}
    model.module.load_state_dict(read, strict=False)
