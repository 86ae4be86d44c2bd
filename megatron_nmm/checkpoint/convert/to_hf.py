"""A training checkpoint, of any layout, as a Hugging Face folder that appears whole or not at all."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from megatron_nmm.checkpoint.convert import safetensors_files
from megatron_nmm.checkpoint.convert.kinds import KINDS, Kind, require_expressible
from megatron_nmm.checkpoint.convert.safetensors_files import Group, Tensor
from megatron_nmm.checkpoint.convert.stored import StoredWeights
from megatron_nmm.checkpoint.convert.tokenizer_files import tokenizer_files
from megatron_nmm.checkpoint.families.shapes import shapes
from megatron_nmm.checkpoint.rows import Row
from megatron_nmm.config import RunConfig
from megatron_nmm.config.hf_config import NAME
from megatron_nmm.config.values import from_json
from megatron_nmm.data.rule import LAYOUT_TOKENS
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import CheckpointError
from megatron_nmm.files import durable
from megatron_nmm.files.whole import new_folder

DTYPES: Mapping[str, torch.dtype | None] = {"stored": None, "fp32": torch.float32, "bf16": torch.bfloat16}
"""Choices of number format; stored = each as the checkpoint has it."""
WORDS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
"""As config.json calls them."""
AS_STORED = re.compile(r".*\.expert_bias")
"""Tensors that keep their number format whatever is asked for: this bias steers by steps that bf16 rounds away."""
LARGEST = 5 * 10**9
"""Bytes of one file."""
SHOWN = 4
"""Misfitting tensors named in a message."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """What was written: our tensors that were mapped, the step they are of and its run."""

    mapped: int
    step: int
    run: RunConfig


def to_hf(
    place: Path,
    out: Path,
    family: str,
    dtype: str,
    tokenizer: Tokenizer | None,
    say: Say,
    finish: Callable[[Path, "Exported"], None] = lambda folder, exported: None,
    largest: int = LARGEST,
) -> Exported:
    """Write the weights of ``place`` (a run's folder or a checkpoint) into the new folder ``out``.

    ``family`` is a key of KINDS, ``dtype`` one of DTYPES. ``finish`` may add files before the folder appears. ``say``
    gets the lines of the audit. Raises CheckpointError, and leaves nothing behind, when the checkpoint does not fit its
    own settings or the family, or a file cannot be written.
    """
    weights = StoredWeights(place, say)
    run = run_of(weights)
    require_expressible(family, run)
    if tokenizer is not None:
        _require_vocabulary(run, tokenizer)
    kind = KINDS[family]
    rows = kind.rows(run.model, run.model.vocabulary)
    left = audit(rows, weights, kind, run)
    say(f"{len(rows)} mapped, 0 missing, 0 unexpected{f', {left} of the image part left out' if left else ''}")
    try:
        with new_folder(out) as folder:
            groups = _groups(rows, weights, DTYPES[dtype])
            safetensors_files.write(folder, groups, largest)
            _write_config(folder, kind.config(run), groups, tokenizer)
            if tokenizer is not None:
                tokenizer_files(folder, tokenizer)
                _write_generation(folder, run.model.vocabulary, tokenizer)
            exported = Exported(len(rows), weights.progress.step, run)
            finish(folder, exported)
            durable.sync_files(folder)
    except OSError as fault:
        raise CheckpointError(f"{out} was not written: {fault.strerror}; make room or name another folder") from fault
    return exported


def run_of(weights: StoredWeights) -> RunConfig:
    """The run that wrote a checkpoint; settings that this version has no more are refused by name."""
    faults: list[str] = []
    run = from_json(RunConfig, weights.progress.config, "", faults, complete=False)
    if faults:
        raise CheckpointError(f"the settings in {weights.place} cannot be read: {'; '.join(faults[:SHOWN])}")
    assert isinstance(run, RunConfig), "from_json returns what it was asked for when it reports no fault"
    return run


def audit(rows: Sequence[Row], weights: StoredWeights, kind: Kind, run: RunConfig) -> int:
    """How many tensors this form leaves out. Raises CheckpointError unless rows and weights are one to one."""
    mapped = [row.ours for row in rows]
    missing = sorted(set(mapped) - weights.shapes.keys())
    extra = weights.shapes.keys() - set(mapped)
    unexpected = sorted(name for name in extra if not re.fullmatch(kind.left, name))
    wanted = shapes(run.model, mapped)
    found = [f"{name} is missing" for name in missing]
    found += [f"{name} is unexpected" for name in unexpected]
    found += [
        f"{name} has shape {weights.shapes[name]}, the settings want {wanted[name]}"
        for name in mapped
        if name in weights.shapes and weights.shapes[name] != wanted[name]
    ]
    if found:
        counts = f"{len(mapped) - len(missing)} mapped, {len(missing)} missing, {len(unexpected)} unexpected"
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise CheckpointError(
            f"{weights.place}: {counts}; nothing was written. {'; '.join(found[:SHOWN])}{more}. Its weights and its "
            "settings (progress.json) are not of one model"
        )
    return len(extra)


def _require_vocabulary(run: RunConfig, tokenizer: Tokenizer) -> None:
    if tokenizer.size > run.model.vocabulary:
        raise CheckpointError(
            f"tokenizer {tokenizer.path} has {tokenizer.size} ids, the model {run.model.vocabulary} rows: it is of "
            "another vocabulary; name the one that the corpora were made with (--tokenizer)"
        )


def _groups(rows: Sequence[Row], weights: StoredWeights, asked: torch.dtype | None) -> list[Group]:
    """Each row's tensors; one that two rows make belongs to the first."""
    groups, named = [], set[str]()
    for row in rows:
        kept = AS_STORED.fullmatch(row.ours) or asked is None
        dtype = weights.dtypes[row.ours] if kept or asked is None else asked
        meta = [torch.empty(weights.shapes[name], device="meta") for name in (row.ours, *row.beside)]
        new = [name not in named for name in row.theirs]
        tensors = [
            Tensor(name, tuple(part.shape), dtype)
            for name, part, is_new in zip(row.theirs, row.cut(*meta), new, strict=True)
            if is_new
        ]
        named |= set(row.theirs)
        groups.append(Group(tensors, partial(_cut, row, weights, new)))
    return groups


def _cut(row: Row, weights: StoredWeights, new: Sequence[bool]) -> Iterable[torch.Tensor]:
    parts = row.cut(*(weights.read(name) for name in (row.ours, *row.beside)))
    return [part for part, is_new in zip(parts, new, strict=True) if is_new]


def image_tokens(special: Mapping[str, int]) -> list[int]:
    """Ids of the placeholder and of the tokens that lay images out: no training supervises them, no answer has any."""
    return sorted(special[name] for name in ("image", *LAYOUT_TOKENS))


def _write_generation(folder: Path, vocabulary: int, tokenizer: Tokenizer) -> None:
    """Where answers end, and what is never chosen: images and their layout, rows of the vocabulary that are padding."""
    ids: dict[str, Any] = {f"{name}_token_id": tokenizer.special[name] for name in ("pad", "bos", "eos")}
    ids["suppress_tokens"] = [*image_tokens(tokenizer.special), *range(tokenizer.size, vocabulary)]
    durable.write(folder / "generation_config.json", (json.dumps(ids) + "\n").encode())


def _write_config(
    folder: Path, config: Mapping[str, Any], groups: Sequence[Group], tokenizer: Tokenizer | None
) -> None:
    first = groups[0].tensors[0].dtype
    ids = {} if tokenizer is None else {f"{name}_token_id": token for name, token in tokenizer.special.items()}
    text = json.dumps({**config, **ids, "dtype": WORDS[first]}, indent=2) + "\n"
    durable.write(folder / NAME, text.encode())
