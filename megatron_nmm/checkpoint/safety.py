"""Loading never runs code from a checkpoint: its pickles are read here first, by readers that know no functions.

The ``torch_dist`` format keeps an index (``.metadata``) and small objects as pickles, and both torch and megatron-core
unpickle them without restriction. A manifest does not help: whoever forges a checkpoint forges its manifest too. So
before those loaders see a folder, the index is read allowing nothing but the format's own record types, and every
object it lists is read as plain data (``torch.load(weights_only=True)``). The same bytes are then harmless to them.
"""

import io
import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from megatron_nmm.errors import CheckpointError

INDEX = ".metadata"
LEGACY = "common.pt"
RECORDS = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "pathlib": {"PosixPath"},
}
"""All that an index may name, besides torch's number types."""


class _IndexReader(pickle.Unpickler):
    """Unpickles an index; refuses any name outside ``RECORDS``."""

    def find_class(self, module: str, name: str) -> Any:
        number_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not number_type and name not in RECORDS.get(module, ()):
            raise CheckpointError(f"{INDEX} asks to load {module}.{name}, which could run code")
        return super().find_class(module, name)


def require_harmless(checkpoint: Path, files: Collection[str]) -> None:
    """Read every pickle of ``checkpoint``, whose manifest lists ``files``, without running any of it.

    Raises CheckpointError naming the file and what it would have loaded.
    """
    try:
        _require_harmless(checkpoint, files)
    except CheckpointError as fault:
        raise CheckpointError(
            f"{checkpoint} is refused, nothing of it was loaded: {fault}. This package never writes such a file; "
            "delete that checkpoint unless you know where it comes from"
        ) from None


def _require_harmless(checkpoint: Path, files: Collection[str]) -> None:
    if (checkpoint / LEGACY).exists():
        raise CheckpointError(f"{LEGACY} is a pickle of an older format, which could run code")
    with (checkpoint / INDEX).open("rb") as stream:
        try:
            index = _IndexReader(stream).load()
            places = {key.fqn: place for key, place in index.storage_data.items()}
            objects = [name for name, kind in index.state_dict_metadata.items() if not hasattr(kind, "chunks")]
        except CheckpointError:
            raise
        except Exception as fault:  # a broken pickle can raise anything
            raise CheckpointError(f"{INDEX} is not an index ({type(fault).__name__}: {fault})") from fault
    for name, place in places.items():
        if place.relative_path not in files or place.transform_descriptors:
            raise CheckpointError(f"{INDEX} places {name} in {place.relative_path}, which its manifest does not list")
    for name in objects:
        _require_plain(checkpoint / places[name].relative_path, places[name], name)


def _require_plain(file: Path, place: Any, name: str) -> None:
    with file.open("rb") as stream:
        stream.seek(place.offset)
        content = io.BytesIO(stream.read(place.length))
    try:
        torch.load(content, map_location="cpu", weights_only=True)
    except Exception as fault:  # whatever the reason, it is not plain data
        raise CheckpointError(f"{name} in {file.name} is not plain data ({str(fault).splitlines()[0]})") from fault
