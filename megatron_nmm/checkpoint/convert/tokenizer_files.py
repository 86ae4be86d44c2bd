"""The tokenizer of a run beside its exported weights, the same bytes under the name that readers look for."""

import hashlib
from pathlib import Path

from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.files import durable


def tokenizer_files(folder: Path, tokenizer: Tokenizer) -> dict[str, str]:
    """Copy the model file of ``tokenizer`` into ``folder``; file name -> sha256."""
    name = "tokenizer.json" if tokenizer.path.suffix == ".json" else "tokenizer.model"
    content = tokenizer.path.read_bytes()
    durable.write(folder / name, content)
    return {name: hashlib.sha256(content).hexdigest()}
