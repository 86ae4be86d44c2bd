"""The weights of a training checkpoint, read one tensor at a time by one process that is in no process group.

A tensor lies in as many chunks as ranks held parts of it, whatever the layout; here it comes back whole. At most the
tensor and one of its chunks are in memory.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader

from megatron_nmm.checkpoint import manifest, progress, publish
from megatron_nmm.checkpoint.other_stage import OPTIMIZER_PREFIX
from megatron_nmm.checkpoint.progress import Progress
from megatron_nmm.checkpoint.publish import CHECKPOINTS
from megatron_nmm.checkpoint.safety import require_harmless
from megatron_nmm.config.recipes import is_state
from megatron_nmm.errors import CheckpointError

Say = Callable[[str], None]


class StoredWeights:
    """Shapes and number formats of a checkpoint's weights, optimizer state aside; values when they are asked for."""

    def __init__(self, place: Path, say: Say) -> None:
        """``place`` is a checkpoint folder, or a run's: its newest intact one. ``say`` gets a line for each that is
        skipped. Raises CheckpointError when none is intact, or when one could run code."""
        self.place = _newest_intact(place, say)
        require_harmless(self.place, manifest.read(self.place).files)
        self.progress: Progress = progress.read(self.place)
        index: Any = FileSystemReader(self.place).read_metadata()
        tensors = {
            name: entry
            for name, entry in index.state_dict_metadata.items()
            if hasattr(entry, "chunks") and not name.startswith(OPTIMIZER_PREFIX) and not is_state(name)
        }
        self.shapes: Mapping[str, tuple[int, ...]] = {name: tuple(entry.size) for name, entry in tensors.items()}
        """Name -> whole shape."""
        self.dtypes: Mapping[str, torch.dtype] = {name: entry.properties.dtype for name, entry in tensors.items()}
        """Name -> number format it is stored in."""
        self._chunks: dict[str, list[tuple[tuple[int, ...], Any]]] = {name: [] for name in tensors}
        for key, where in index.storage_data.items():
            if key.fqn in tensors:
                self._chunks[key.fqn].append((tuple(key.offset or ()), where))

    def read(self, name: str) -> torch.Tensor:
        """The tensor ``name``, whole. Raises CheckpointError when its chunks do not make one."""
        shape, chunks = self.shapes[name], self._chunks[name]
        if len(chunks) == 1:
            whole = self._chunk(chunks[0][1])
            read = whole.numel()
        else:
            whole, read = torch.empty(shape, dtype=self.dtypes[name]), 0
            for offset, where in chunks:
                part = self._chunk(where)
                read += part.numel()
                place = tuple(slice(start, start + size) for start, size in zip(offset, part.shape, strict=True))
                whole[place].copy_(part)
                del part
        if tuple(whole.shape) != shape or read != whole.numel():
            raise CheckpointError(f"{name} in {self.place} is not whole; its index and its files disagree")
        return whole

    def _chunk(self, where: Any) -> torch.Tensor:
        with (self.place / where.relative_path).open("rb") as stream:
            part: torch.Tensor = torch.load(
                io.BufferedReader(_Part(stream, where.offset, where.length)), map_location="cpu", weights_only=True
            )
        return part


class _Part(io.RawIOBase):
    """A stretch of an open file as a file of its own, so that nothing is copied on the way to torch."""

    def __init__(self, stream: Any, start: int, length: int) -> None:
        super().__init__()
        self._stream, self._start, self._length, self._place = stream, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._length}[whence]
        self._place = base + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._length - self._place))
        self._stream.seek(self._start + self._place)
        read: int = self._stream.readinto(memoryview(buffer)[:wanted])
        self._place += read
        return read


def _newest_intact(place: Path, say: Say) -> Path:
    one = publish.step_of(place) is not None
    candidates = [place] if one else publish.published(place / CHECKPOINTS)
    if not candidates:
        raise CheckpointError(
            f"{place} holds no checkpoint; give a run's folder, or one of its {CHECKPOINTS}/step-... folders"
        )
    skipped = []
    for checkpoint in candidates:
        faults = _faults(checkpoint)
        if not faults:
            return checkpoint
        skipped.append(f"{checkpoint.name}: {', '.join(faults)}")
        say(f"skipped {skipped[-1]}")
    raise CheckpointError(
        f"no checkpoint in {candidates[0].parent} is intact: {'; '.join(skipped)}. Restore one from a copy"
    )


def _faults(checkpoint: Path) -> list[str]:
    listed = publish.manifest_or_fault(checkpoint)
    return [listed] if isinstance(listed, str) else manifest.faults(checkpoint, listed, listed.files)
