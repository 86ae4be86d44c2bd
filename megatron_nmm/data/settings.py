"""What must be the same for all shards of a corpus, and what a shard is called on disk.

Apart from the writer, so that a process which only hands out work need not load what writing takes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megatron_nmm.data.raw.schema import Schema
from megatron_nmm.data.rule import ImageRule
from megatron_nmm.data.tokens import Tokenizer

SHARD_VERSION = 2
PARTIAL = ".partial"
"""Ends the name of a shard that is being written."""

Verify = Literal["decode", "header"]
"""How much of every image is looked at: all of it, or what gives its size."""


@dataclass(frozen=True)
class Settings:
    """What must be the same for all shards of a corpus. Pickles: the tokenizer is opened again from its file."""

    source: str
    tokenizer: Tokenizer
    rule: ImageRule
    image_root: str | Path | None = None
    """Folder or URL image paths start from; None = the folder of the input that names them."""
    schema: Schema | None = None
    """Which field is what; None = found by the fields there are."""
    verify: Verify = "decode"

    def identity(self) -> dict[str, Any]:
        """The settings as they stand in every shard's manifest."""
        return {
            "source": self.source,
            "tokenizer_sha256": self.tokenizer.sha256,
            "image_rule": self.rule.to_json(),
            "schema": None if self.schema is None else self.schema.to_json(),
            "verify_images": self.verify,
        }
