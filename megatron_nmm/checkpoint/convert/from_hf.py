"""A Hugging Face folder as a training checkpoint that appears whole or not at all; any layout starts from it."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from megatron_nmm.checkpoint import manifest, progress, publish
from megatron_nmm.checkpoint.audit import require_fit
from megatron_nmm.checkpoint.convert import torch_dist
from megatron_nmm.checkpoint.convert.kinds import DERIVED, kind_of
from megatron_nmm.checkpoint.convert.torch_dist import Announced
from megatron_nmm.checkpoint.families.shapes import shapes
from megatron_nmm.checkpoint.hf_folder import HFFolder
from megatron_nmm.checkpoint.manifest import Manifest
from megatron_nmm.checkpoint.progress import Progress
from megatron_nmm.checkpoint.publish import CHECKPOINTS
from megatron_nmm.checkpoint.rows import Row
from megatron_nmm.config import RunConfig
from megatron_nmm.config.hf_config import read
from megatron_nmm.config.io import to_dict
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import CheckpointError
from megatron_nmm.files import durable
from megatron_nmm.files.whole import new_folder

FORMATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float32}
"""Number format in the folder -> in the checkpoint; training has no fp16, and fp32 holds all of its values."""
DTYPES = {"stored": None, "fp32": torch.float32, "bf16": torch.bfloat16}
"""Choices of number format; stored = as the folder has it."""
AS_STORED = ".expert_bias"
TIED = ("lm_head.weight", "output.weight", "language_model.lm_head.weight", "language_model.output.weight")
"""A tied output layer is sometimes stored all the same."""
STEP = 0


class _Lazy(Sequence[torch.Tensor]):
    """Tensors of a folder, each read when it is asked for and not kept."""

    def __init__(self, folder: HFFolder, names: tuple[str, ...]) -> None:
        self._folder, self._names = folder, names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> torch.Tensor:  # type: ignore[override]
        return self._folder.read(self._names[index])

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self._folder.read(name) for name in self._names)


def from_hf(place: Path, out: Path, dtype: str, say: Callable[[str], None]) -> Path:
    """Write the weights of the folder ``place`` as a checkpoint of step 0 in the new run folder ``out``.

    ``init.checkpoint=<out>`` begins a run with them. ``dtype`` is one of DTYPES. Raises CheckpointError, and leaves
    nothing behind, when the folder is damaged, is of an unknown kind, or when its weights do not fit its config.json.
    """
    folder = HFFolder(place)
    try:
        raw = read(place)
    except ValueError as fault:
        raise CheckpointError(f"{place} {fault}; use a folder as save_pretrained writes it") from fault
    kind, run = kind_of(raw, str(place))
    _require_vocabulary(place, run)
    rows = kind.rows(run.model, run.model.vocabulary)
    filled = {row.ours: row for row in rows}
    ignored = (DERIVED, *TIED) if run.model.tie_embeddings else (DERIVED,)
    require_fit(folder, filled, ignored, shapes(run.model, filled))
    say(f"{len(rows)} mapped, 0 missing, 0 unexpected")
    try:
        with new_folder(out) as partial_folder:
            checkpoint = partial_folder / CHECKPOINTS / publish.name_of(STEP)
            checkpoint.mkdir(parents=True)
            torch_dist.write(checkpoint, {row.ours: _announced(row, folder, run, dtype) for row in rows})
            progress.write(checkpoint, Progress(STEP, 0, to_dict(run)))
            files = {path.name: manifest.seal(path) for path in checkpoint.iterdir()}
            manifest.write(checkpoint, Manifest(STEP, files))
            durable.sync_folder(checkpoint)
            durable.sync_folder(checkpoint.parent)
    except OSError as fault:
        raise CheckpointError(f"{out} was not written: {fault.strerror}; make room or name another folder") from fault
    return out / CHECKPOINTS / publish.name_of(STEP)


def _announced(row: Row, folder: HFFolder, run: RunConfig, dtype: str) -> Announced:
    stored = FORMATS[folder.formats[row.theirs[-1]]]
    asked = None if row.ours.endswith(AS_STORED) else DTYPES[dtype]
    (shape,) = shapes(run.model, [row.ours]).values()
    return Announced(shape, asked or stored, partial(row.join, _Lazy(folder, row.theirs)))


def _require_vocabulary(place: Path, run: RunConfig) -> None:
    """A tokenizer in the folder may not have ids beyond the embedding table."""
    if not any((place / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return
    tokenizer = Tokenizer(place)
    if tokenizer.stored > run.model.vocabulary:
        raise CheckpointError(
            f"{place} has a tokenizer of {tokenizer.stored} ids and a model of {run.model.vocabulary} rows: they have "
            "different vocabularies; fetch the folder again"
        )
