"""Which files are raw data: the end of a name says the format and how the file is packed."""

from megatron_nmm.data.raw.opening import base_name
from megatron_nmm.errors import DataError

ENDINGS = {
    ".jsonl": ("jsonl", ""),
    ".ndjson": ("jsonl", ""),
    ".json": ("jsonl", ""),
    ".jsonl.gz": ("jsonl", "gz"),
    ".ndjson.gz": ("jsonl", "gz"),
    ".json.gz": ("jsonl", "gz"),
    ".jsonl.zst": ("jsonl", "zst"),
    ".ndjson.zst": ("jsonl", "zst"),
    ".json.zst": ("jsonl", "zst"),
    ".parquet": ("parquet", ""),
    ".tar": ("tar", ""),
    ".tar.gz": ("tar", "gz"),
    ".tgz": ("tar", "gz"),
    ".tar.zst": ("tar", "zst"),
}
"""End of a file's name, in small letters -> (format, packing)."""


def format_of(name: str) -> str | None:
    """``jsonl``, ``jsonl.gz``, ``parquet``, ``tar.zst`` and so on; None for any other file."""
    base = base_name(name).lower()
    for ending, (kind, packing) in ENDINGS.items():
        if base.endswith(ending):
            return f"{kind}.{packing}".rstrip(".")
    return None


def known_format(name: str) -> str:
    """``format_of``; raises DataError when the file is of no supported kind."""
    found = format_of(name)
    if found is None:
        raise DataError(f"{name} is of no known kind; supported are {', '.join(ENDINGS)}")
    return found
