"""Where a run's first weights come from, judged before training: the folders exist and hold a model of this shape."""

import re
from collections.abc import Iterator
from pathlib import Path

from megatron_nmm.config.fault import Fault
from megatron_nmm.config.hf_config import folder_faults
from megatron_nmm.config.hf_language import LANGUAGE_MODELS
from megatron_nmm.config.hf_vision import NEARLY, VISION_MODELS
from megatron_nmm.config.schema import RunConfig
from megatron_nmm.config.values import accepts

CHECKPOINTS = "checkpoints/step-*"
"""What a run that goes on has in its folder; it reads no first weights."""


def first_weights_faults(run: RunConfig) -> Iterator[Fault]:
    """Every fault of ``run.init``; none for a run that goes on from a checkpoint of its own."""
    if any(Path(run.folder).glob(CHECKPOINTS)):
        return
    init = run.init
    if init.checkpoint and (wrong := _wrong_checkpoint(Path(init.checkpoint))):
        fact = f"init.checkpoint {init.checkpoint} {wrong}"
        yield Fault("init.checkpoint", fact, "name a run's folder, or one of its checkpoints/step-... folders")
    if init.continue_from:
        yield from _continued_faults(run)
    if init.checkpoint and init.language_model:
        fact = f"init.checkpoint {init.checkpoint} and init.language_model {init.language_model} both fill the decoder"
        yield Fault(
            "init.language_model", fact, "keep one of them: --set init.checkpoint= or --set init.language_model="
        )
    if init.language_model:
        yield from folder_faults(run, "init.language_model", init.language_model, LANGUAGE_MODELS, {})
    if init.vision_model:
        yield from folder_faults(run, "init.vision_model", init.vision_model, VISION_MODELS, NEARLY)


def _continued_faults(run: RunConfig) -> Iterator[Fault]:
    """``init.continue_from`` is one checkpoint, stands before the run's end, and needs no other source."""
    place = Path(run.init.continue_from)
    fact = f"init.continue_from {place}"
    found = re.fullmatch(r"step-(\d{8,})", place.name)
    if found is None or not place.is_dir():
        remedy = "name one of a run's checkpoints/step-... folders"
        yield Fault("init.continue_from", f"{fact} is no checkpoint's folder", remedy)
    elif accepts(int, run.steps) and int(found[1]) >= run.steps:
        remedy = f"use an earlier checkpoint, or steps above {int(found[1])}"
        yield Fault("init.continue_from", f"{fact} stands at the end of this run, whose steps is {run.steps}", remedy)
    for key in ("checkpoint", "language_model", "vision_model"):
        if value := getattr(run.init, key):
            told = f"{fact} and init.{key} {value} both give the first weights"
            yield Fault(f"init.{key}", told, f"keep one of them: --set init.continue_from= or --set init.{key}=")


def _wrong_checkpoint(place: Path) -> str:
    """What is wrong with the folder, to stand after its name; "" when it, or a run in it, may hold a checkpoint."""
    if not place.is_dir():
        return "is not a folder"
    is_one = place.match(CHECKPOINTS.rpartition("/")[2])
    return "" if is_one or any(place.glob(CHECKPOINTS)) else "holds no checkpoint"
