"""Writes safetensors files, one or several with an index, without a copy of any tensor beyond a block of it.

The format is a length, a JSON header that places every tensor, and the bytes in that order (safetensors' README); its
library writes whole dictionaries only, so the header is laid out here, from shapes alone, before any value is read.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from megatron_nmm.checkpoint.hf_folder import INDEX, SINGLE
from megatron_nmm.files import durable

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""Number formats that weights have, as the header calls them."""
BLOCK = 1 << 24
"""Values cast and written at once."""


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Its length in the file."""
        return int(torch.Size(self.shape).numel()) * self.dtype.itemsize


@dataclass(frozen=True)
class Group:
    """Tensors that are made together, and what makes them when their turn comes."""

    tensors: Sequence[Tensor]
    values: Callable[[], Iterable[torch.Tensor]]

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(tensor.bytes for tensor in self.tensors)


def write(folder: Path, groups: Sequence[Group], largest: int) -> None:
    """Write ``groups`` into files of at most ``largest`` bytes, a group never cut.

    Files are named and, where they are several, indexed as Hugging Face does it. Raises OSError when the disk refuses.
    """
    files = _dealt(groups, largest)
    if len(files) == 1:
        _write_file(folder / SINGLE, files[0])
        return
    names = [f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)]
    for name, file in zip(names, files, strict=True):
        _write_file(folder / name, file)
    index = {
        "metadata": {"total_size": sum(group.bytes for group in groups)},
        "weight_map": {
            tensor.name: name
            for name, file in zip(names, files, strict=True)
            for group in file
            for tensor in group.tensors
        },
    }
    durable.write(folder / INDEX, (json.dumps(index, indent=2) + "\n").encode())


def _dealt(groups: Sequence[Group], largest: int) -> list[list[Group]]:
    files: list[list[Group]] = [[]]
    filled = 0
    for group in groups:
        if files[-1] and filled + group.bytes > largest:
            files.append([])
            filled = 0
        files[-1].append(group)
        filled += group.bytes
    return files


def _write_file(path: Path, groups: Sequence[Group]) -> None:
    with path.open("wb") as stream:
        stream.write(_header(groups))
        for group in groups:
            for tensor, value in zip(group.tensors, group.values(), strict=True):
                assert tuple(value.shape) == tensor.shape, f"{tensor.name} was announced in another shape"
                _write_values(stream, value, tensor.dtype)
        stream.flush()
        os.fsync(stream.fileno())


def _header(groups: Sequence[Group]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in (tensor for group in groups for tensor in group.tensors):
        place = [end, end := end + tensor.bytes]
        entries[tensor.name] = {"dtype": NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": place}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_values(stream: BinaryIO, value: torch.Tensor, dtype: torch.dtype) -> None:
    """The values in the order of the last dimension, cast block by block."""
    rows = value.reshape(1, -1) if value.dim() < 2 else value
    per_row = max(1, rows[0].numel()) if len(rows) else 1
    for block in rows.split(max(1, BLOCK // per_row)):
        stream.write(memoryview(block.to(dtype).contiguous().flatten().view(torch.uint8).numpy()))
