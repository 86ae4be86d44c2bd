"""Writes weights as a training checkpoint (megatron-core's ``torch_dist``), one tensor in memory at a time.

torch's own writer of this format keeps every tensor of a file until the file is closed; the format itself is plain:
each tensor as ``torch.save`` writes it, one after the other, and an index that says where. Any Megatron reads it.
"""

import io
import os
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from megatron_nmm.checkpoint.safety import INDEX
from megatron_nmm.files import durable

VERSION = "1.0.0"
"""Of the index."""
FILE = "__0_0.distcp"
NOTE = "metadata.json"
FORMAT_NOTE = b'{"sharded_backend": "torch_dist", "sharded_backend_version": 1}'
"""What tells Megatron the format (checkpoint/state.py writes it through megatron-core)."""
PARALLEL_LINEAR = re.compile(r"(?!.*\.experts\.).*\.linear_(qkv|proj|fc1|fc2)\.weight")
"""Weights of megatron-core's parallel linear layers, which keep an empty "extra state" beside them."""
OUTPUT = "output_layer"
"""One more of them; where embeddings are tied it has no weight of its own."""


@dataclass(frozen=True)
class Announced:
    """A tensor to be written, and what makes it when its turn comes."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    value: Callable[[], torch.Tensor]


def write(folder: Path, tensors: Mapping[str, Announced]) -> None:
    """Write ``tensors`` (name -> what it is) and what Megatron expects beside them into ``folder``, flushed."""
    writer = _Writer()
    with (folder / FILE).open("wb") as stream:
        for name in _objects(tensors):
            writer.add_object(stream, name, [None])
        # What is no tensor; a checkpoint of weights has nothing there.
        writer.add_object(stream, "common_state", [{}])
        for name, tensor in tensors.items():
            writer.add_tensor(stream, name, tensor)
        stream.flush()
        os.fsync(stream.fileno())
    durable.write(folder / INDEX, pickle.dumps(writer.index()))
    durable.write(folder / NOTE, FORMAT_NOTE)


def _objects(names: Iterable[str]) -> list[str]:
    layers = [name.removesuffix(".weight") for name in names if PARALLEL_LINEAR.fullmatch(name)]
    return [f"{layer}._extra_state" for layer in (*layers, OUTPUT)]


class _Writer:
    """Places of what was written so far."""

    def __init__(self) -> None:
        self._entries: dict[str, Any] = {}
        self._places: dict[MetadataIndex, _StorageInfo] = {}

    def add_object(self, stream: Any, name: str, value: object) -> None:
        key = f"{name}/shard_0_1"
        self._entries[key] = BytesStorageMetadata()
        self._place(stream, MetadataIndex(key), value)

    def add_tensor(self, stream: Any, name: str, announced: Announced) -> None:
        size, start = torch.Size(announced.shape), torch.Size([0] * len(announced.shape))
        chunk = ChunkStorageMetadata(offsets=start, sizes=size)
        properties = TensorProperties(dtype=announced.dtype)
        self._entries[name] = TensorStorageMetadata(properties, size, [chunk])
        value = announced.value().to(announced.dtype).contiguous()
        assert value.shape == size, f"{name} was announced in another shape"
        if value.untyped_storage().nbytes() != value.nbytes:  # torch.save keeps the storage, not the view
            value = value.clone()
        self._place(stream, MetadataIndex(name, start, 0), value)

    def _place(self, stream: Any, key: MetadataIndex, value: object) -> None:
        offset = stream.tell()
        if isinstance(value, torch.Tensor):
            torch.save(value, cast(IO[bytes], _Tail(stream)))
        else:
            content = io.BytesIO()
            torch.save(value, content)
            stream.write(content.getbuffer())
        self._places[key] = _StorageInfo(FILE, offset, stream.tell() - offset)

    def index(self) -> Metadata:
        meta = StorageMeta(checkpoint_id=None, save_id=None, load_id=None, modules=[])
        return Metadata(self._entries, None, self._places, meta, VERSION)


class _Tail:
    """The end of a file as a file of its own: torch's archives count places from where they begin."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, content: Any) -> int:
        written: int = self._stream.write(content)
        return written

    def flush(self) -> None:
        self._stream.flush()
