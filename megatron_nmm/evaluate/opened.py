"""A folder, opened as a model that answers: the newest checkpoint of a run, in any layout, or an export."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_nmm.config import ParallelConfig, RunConfig
from megatron_nmm.config.check import check
from megatron_nmm.config.command_line import processes, require_launcher
from megatron_nmm.config.fault import config_error
from megatron_nmm.config.io import load
from megatron_nmm.config.overrides import apply
from megatron_nmm.errors import CheckpointError, ConfigError
from megatron_nmm.generate.contract import AnsweringModel

RUN, EXPORT = "checkpoints", "*.safetensors"
"""What a run's folder and an export's have inside."""


@dataclass(frozen=True)
class Opened:
    """A model and where it came from."""

    model: AnsweringModel
    source: str
    """In words: which checkpoint, in which layout."""
    is_main: bool
    """Whether this process speaks for all."""
    step: int = 0
    """Of the checkpoint; 0 of an export, which does not say."""


def run_of(folder: Path, changes: Sequence[str]) -> RunConfig:
    """The run in ``folder`` in one process, as ``changes``, each ``dotted.key=value``, alter it; checked.

    Raises ConfigError for a layout that does not fit the model or the processes there are.
    """
    run = apply(replace(load(folder / "config.json"), parallel=ParallelConfig()), changes)
    world_size = processes(run, os.environ)
    # Answers have no global batch; the rules of training would judge one.
    copies = max(1, world_size // run.parallel.of_copy)
    if faults := check(replace(run, data=replace(run.data, microbatch=1, global_batch=copies)), world_size):
        raise config_error("the model cannot be opened", faults)
    require_launcher(run)
    return run


@contextmanager
def opened(folder: Path, changes: Sequence[str] = (), rows: int | None = None) -> Iterator[Opened]:
    """The newest checkpoint of the run in ``folder``, or the export there, for the length of a block. Collective.

    ``rows`` prompts run together (None: the default). Raises ConfigError or CheckpointError when ``folder`` is neither,
    or cannot be opened.
    """
    if (folder / RUN).is_dir():
        with _opened_run(folder, run_of(folder, changes), rows) as found:
            yield found
    elif any(folder.glob(EXPORT)):
        if changes or int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                f"{folder} is an export: one process answers from it as it is; leave out torchrun and --set"
            )
        yield _opened_export(folder, rows)
    else:
        raise ConfigError(
            f"{folder} is neither the folder of a run ({RUN}/ inside) nor an export ({EXPORT} inside); give one of them"
        )


@contextmanager
def _opened_run(folder: Path, run: RunConfig, rows: int | None) -> Iterator[Opened]:
    from megatron_nmm.device.select import select
    from megatron_nmm.parallel.world import World

    world = World.start(run.parallel, select(run.device), run.seed, run.threads)
    try:
        # Modules of megatron-core come in with these; the device has to be ready for them.
        from megatron_nmm.checkpoint.resume import load_weights
        from megatron_nmm.data.tokens import Tokenizer
        from megatron_nmm.generate.training import ROWS, TrainingModel
        from megatron_nmm.models.build import build

        model = build(run, world)
        step = load_weights(folder, model, world).step
        tokenizer = Tokenizer(Path(run.data.tokenizer))
        layout = " x ".join(f"{name} {size}" for name, size in {**run.parallel.shape, "data": world.data_size}.items())
        source = f"step {step} of {folder} on {world.size} processes = {layout}"
        yield Opened(TrainingModel(model, run, tokenizer, world, rows or ROWS), source, world.is_main, step)
    finally:
        world.close()


def _opened_export(folder: Path, rows: int | None) -> Opened:
    """The exported model, by this package's classes: no code from the folder is run."""
    from safetensors import SafetensorError

    try:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        import megatron_nmm.hf  # noqa: F401  registers them
    except ImportError as error:
        raise ConfigError(f"an export needs transformers ({error}); pip install 'transformers>=5.0'") from error
    from megatron_nmm.data.tokens import Tokenizer
    from megatron_nmm.generate.export import ExportModel
    from megatron_nmm.generate.training import ROWS

    try:
        model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"export {folder} cannot be loaded: {error}; export the run again") from error
    found = ExportModel(model.eval(), processor, Tokenizer(folder), rows or ROWS)
    return Opened(found, f"export {folder}", True)
