"""The first weights of a run: from a checkpoint, a language model, a vision model; the rest is drawn at random."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from megatron_nmm.checkpoint.agree import on_main
from megatron_nmm.checkpoint.families import LANGUAGE, navil_vision
from megatron_nmm.checkpoint.from_folder import load_rows, model_shapes
from megatron_nmm.checkpoint.grow import growth
from megatron_nmm.checkpoint.hf_folder import HFFolder
from megatron_nmm.checkpoint.warm_start import warm_start
from megatron_nmm.config import RunConfig
from megatron_nmm.config.fault import config_error
from megatron_nmm.config.first_weights import first_weights_faults
from megatron_nmm.config.hf_config import read
from megatron_nmm.config.hf_vision import WHOLES
from megatron_nmm.parallel.world import World

Say = Callable[[str], None]

DERIVED = r".*\.rotary_emb\.inv_freq"
"""What older folders store although it follows from their config.json."""
OTHER_PARTS = r"(?!vision_model\.).*"
"""What a whole NaViL or InternVL model holds besides its encoder."""


def initialise(run: RunConfig, model: Any, world: World, say: Say) -> None:
    """Fill ``model`` (freshly built, inside megatron-core's DistributedDataParallel) as ``run.init`` says; collective.

    Call it before the optimizer takes its own copy of the weights, and not when a run resumes. ``say`` gets the lines
    on rank 0. Raises CheckpointError, the same on every rank, when a source does not fit; by then its tensors have not
    changed the model.
    """
    init = run.init
    if not (init.checkpoint or init.language_model or init.vision_model):
        return
    on_main(world, "checking init", lambda: _require(run))
    if init.checkpoint:
        warm_start(run, model, world, say)
    if init.language_model:
        _language_model(run, model, world, say)
    if init.vision_model:
        _vision_model(run, model, world, say)


def _require(run: RunConfig) -> None:
    if faults := tuple(first_weights_faults(run)):
        raise config_error("the first weights cannot be loaded", faults)


def _open(place: str, world: World) -> tuple[HFFolder, Mapping[str, Any]]:
    """Names and shapes of a folder's tensors and its config.json, read once for all ranks."""
    folder = Path(place)
    found: tuple[HFFolder, Mapping[str, Any]] = on_main(
        world, f"opening {place}", lambda: (HFFolder(folder), read(folder))
    )
    return found


def _language_model(run: RunConfig, model: Any, world: World, say: Say) -> None:
    folder, raw = _open(run.init.language_model, world)
    vocabulary = int(raw["vocab_size"])
    rows = {row.ours: row for row in LANGUAGE[raw["model_type"]](run.model, vocabulary)}
    shapes = model_shapes(model, world)
    plan = growth(shapes, rows, folder.place.name, encoder_follows=bool(run.init.vision_model))
    filled = rows | {name: rows[source] for name, source in plan.copies.items()}
    left = shapes.keys() - filled.keys() - plan.drawn
    assert not left, f"the settings agree, and yet {raw['model_type']} has no rows for {sorted(left)}"
    # A tied output layer is sometimes stored all the same.
    tied = ("lm_head.weight", "output.weight") if run.model.tie_embeddings else ()
    load_rows(folder, filled, (DERIVED, *tied), shapes, model, world)
    if world.is_main:
        say(f"first weights of the decoder from {folder.place} ({raw['model_type']}): {len(rows)} tensors")
        for remark in plan.remarks:
            say(remark)
        if spare := run.model.vocabulary - vocabulary:
            say(f"the last {spare} of {run.model.vocabulary} vocabulary rows are not in it: drawn at random")


def _vision_model(run: RunConfig, model: Any, world: World, say: Say) -> None:
    folder, raw = _open(run.init.vision_model, world)
    filled = {row.ours: row for row in navil_vision.rows(run.model, raw)}
    ignored = (DERIVED, OTHER_PARTS) if raw["model_type"] in WHOLES else (DERIVED,)
    load_rows(folder, filled, ignored, model_shapes(model, world), model, world)
    if world.is_main:
        say(f"first weights of the vision encoder from {folder.place}: {len(filled)} tensors")
        if not any(name.startswith("vision_encoder.connector.") for name in filled):
            say(f"{folder.place.name} has no connector for this decoder: drawn at random")
