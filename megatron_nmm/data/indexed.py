"""Megatron's IndexedDataset on disk, read and written with numpy alone.

``<prefix>.bin`` holds the sequences one after the other, ``<prefix>.idx`` says where each begins.

Layout of ``.idx`` (little endian): 9 bytes ``MMIDIDX\\0\\0``, uint64 version 1, uint8 type code, uint64 sequences,
uint64 document marks, int32 length of each sequence, int64 byte offset of each sequence, int64 document marks
(the number of sequences before each document, starting at 0). Here every sequence is a document of its own.
Files written here open in megatron-core, and files written by megatron-core open here.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from megatron_nmm.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
"""Magic, version, type code, sequences, document marks."""
VERSION = 1

TYPE_CODES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.uint8),
    2: np.dtype(np.int8),
    3: np.dtype(np.int16),
    4: np.dtype(np.int32),
    5: np.dtype(np.int64),
    6: np.dtype(np.float64),
    7: np.dtype(np.float32),
    8: np.dtype(np.uint16),
}
CHUNK = 1 << 20
"""Sequences whose index entries are held in memory at once while an index is written."""
BUFFER = 1 << 20
"""Bytes gathered before they are handed to the system: sequences are short, calls are not free."""


class IndexedWriter:
    """Appends sequences of one type to ``<prefix>.bin``; ``close`` writes ``<prefix>.idx``.

    Memory does not grow with the number of sequences: their lengths wait in ``<prefix>.lengths``.
    """

    def __init__(self, prefix: Path, dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self.count = 0
        self.items = 0
        self._prefix = prefix
        self._data: BinaryIO = open(_with(prefix, ".bin"), "wb", BUFFER)
        self._lengths: BinaryIO = open(_with(prefix, ".lengths"), "w+b")

    def append(self, sequence: npt.NDArray[Any] | bytes) -> int:
        """Write one sequence (1-D array, or bytes of the type) and return its number."""
        if isinstance(sequence, bytes):
            sequence = np.frombuffer(sequence, dtype=self.dtype)
        self._data.write(np.ascontiguousarray(sequence, dtype=self.dtype).data)
        self._lengths.write(struct.pack("<i", len(sequence)))
        self.count += 1
        self.items += len(sequence)
        return self.count - 1

    def close(self) -> None:
        """Write the index and remove the scratch file; forcing both to disk is up to who knows when they count."""
        if self.items == 0:
            # An empty file cannot be memory mapped by stock readers; one byte nobody refers to keeps it open-able.
            self._data.write(b"\x00")
        self._data.close()
        with open(_with(self._prefix, ".idx"), "wb") as index:
            code = next(code for code, dtype in TYPE_CODES.items() if dtype == self.dtype)
            index.write(HEADER.pack(MAGIC, VERSION, code, self.count, self.count + 1))
            self._write_lengths_and_offsets(index)
            for start in range(0, self.count + 1, CHUNK):
                index.write(np.arange(start, min(start + CHUNK, self.count + 1), dtype=np.int64).data)
        self._lengths.close()
        _with(self._prefix, ".lengths").unlink(missing_ok=True)

    def _write_lengths_and_offsets(self, index: BinaryIO) -> None:
        """Copy the lengths, then their running byte offsets, a chunk at a time."""
        for passing in ("lengths", "offsets"):
            self._lengths.seek(0)
            offset = 0
            while chunk := self._lengths.read(4 * CHUNK):
                lengths = np.frombuffer(chunk, dtype=np.int32)
                if passing == "lengths":
                    index.write(lengths.data)
                    continue
                ends = offset + np.cumsum(lengths, dtype=np.int64) * self.dtype.itemsize
                index.write(np.concatenate([[offset], ends[:-1]]).astype(np.int64).data)
                offset = int(ends[-1])


class IndexedReader:
    """Memory-mapped sequences of ``<prefix>.bin``; reading one copies nothing."""

    def __init__(self, prefix: Path) -> None:
        """Open and check both files; raise DataError when one is missing, cut short or of another format."""
        index_path, data_path = _with(prefix, ".idx"), _with(prefix, ".bin")
        for path in (index_path, data_path):
            if not path.is_file():
                raise DataError(f"{path} is missing; write the corpus again with tools/tokenise.py")
        code, count, marks = _header(index_path)
        self.dtype = TYPE_CODES[code]
        expected = HEADER.size + 12 * count + 8 * marks
        # Multimodal indices of megatron-core append one int8 mode per sequence.
        if index_path.stat().st_size not in (expected, expected + count):
            raise DataError(
                f"{index_path} has {index_path.stat().st_size} bytes where {count} sequences need {expected}; "
                "the file is torn: write the corpus again with tools/tokenise.py"
            )
        index = np.memmap(index_path, mode="r", dtype=np.uint8)
        self.lengths: npt.NDArray[np.int32] = np.frombuffer(index, np.int32, count, HEADER.size)
        """[sequences] items in each sequence."""
        self._offsets: npt.NDArray[np.int64] = np.frombuffer(index, np.int64, count, HEADER.size + 4 * count)
        self._check_data(index_path, data_path)
        self._data = (
            np.memmap(data_path, mode="r", dtype=np.uint8) if data_path.stat().st_size else np.zeros(0, np.uint8)
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> npt.NDArray[Any]:
        """Sequence ``number`` as a read-only 1-D view."""
        return np.frombuffer(self._data, self.dtype, int(self.lengths[number]), int(self._offsets[number]))

    def _check_data(self, index_path: Path, data_path: Path) -> None:
        """Raise DataError unless the .bin is exactly as long as the .idx says."""
        needed = 0
        if len(self.lengths):
            needed = int(self._offsets[-1]) + int(self.lengths[-1]) * self.dtype.itemsize
        found = data_path.stat().st_size
        if found != needed and not (needed == 0 and found == 1):
            raise DataError(
                f"{data_path} has {found} bytes but {index_path.name} describes {needed}; "
                "the pair is torn: write the corpus again with tools/tokenise.py"
            )


def _header(path: Path) -> tuple[int, int, int]:
    """(type code, sequences, document marks) of an index file."""
    with open(path, "rb") as file:
        raw = file.read(HEADER.size)
    remedy = "write the corpus again with tools/tokenise.py"
    if len(raw) < HEADER.size:
        raise DataError(f"{path} has {len(raw)} bytes, too short for an index; the file is torn: {remedy}")
    magic, version, code, count, marks = HEADER.unpack(raw)
    if magic != MAGIC or version != VERSION or code not in TYPE_CODES:
        raise DataError(f"{path} is not an IndexedDataset index of version {VERSION}; {remedy}")
    return code, count, marks


def _with(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)
