"""The weights of a checkpoint as the first weights of the next training stage, whose model may have new parts.

Any layout reads any other's checkpoint. The optimizer begins anew.
"""

import copy
from collections import ChainMap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor

from megatron_nmm.checkpoint import progress
from megatron_nmm.checkpoint.agree import everywhere, on_main
from megatron_nmm.checkpoint.grow import Growth, growth, twin_shape
from megatron_nmm.checkpoint.other_stage import OPTIMIZER_PREFIX
from megatron_nmm.checkpoint.resume import SHOWN, find_intact
from megatron_nmm.checkpoint.safety import require_harmless
from megatron_nmm.checkpoint.state import Shapes, each_for_itself, fill, shapes, sharded, stored_shapes
from megatron_nmm.config import ModelConfig, RunConfig
from megatron_nmm.config.values import from_json
from megatron_nmm.errors import CheckpointError
from megatron_nmm.parallel.world import World

STEM, ENCODER = "patch_stem.", "vision_encoder."
Setting = Callable[[ModelConfig], object]

CUT: dict[str, Setting] = {
    "model.heads": lambda model: model.heads,
    "model.query_groups": lambda model: model.kv_heads,
    "model.head_dim": lambda model: model.head_width,
    "model.vision.heads": lambda model: model.vision.heads,
}
"""Settings that cut the same tensors into other heads: the weights would fit and mean nothing."""
KEPT: dict[str, Setting] = {
    "model.rope_base": lambda model: model.rope_base,
    "model.norm_epsilon": lambda model: model.norm_epsilon,
    "model.image_mask": lambda model: model.image_mask,
    "model.vision.rope_base": lambda model: model.vision.rope_base,
    "model.vision.norm_epsilon": lambda model: model.vision.norm_epsilon,
    "model.vision.window": lambda model: model.vision.window,
    "model.vision.full_layers": lambda model: model.vision.full_layers,
}
"""Settings that no tensor shows; a stage may change them, and is told."""


def warm_start(run: RunConfig, model: Any, world: World, say: Callable[[str], None]) -> None:
    """Fill ``model`` from ``run.init.checkpoint``, a run's folder or one of its checkpoints. Collective, reads only.

    ``say`` gets, on rank 0, a line for what was read and one for each part that the checkpoint has not. Raises
    CheckpointError, the same on every rank and before anything is changed, when there is no intact checkpoint, when
    tensors lack or have another shape, and when it holds tensors that the model has no place for.
    """
    place = Path(run.init.checkpoint)
    checkpoint, listed = find_intact(place, world, say)
    on_main(world, "looking for code", lambda: require_harmless(checkpoint, listed.files))
    reached = on_main(world, "reading progress", lambda: progress.read(checkpoint))
    entries = sharded(model, None, world, is_loading=True)["model"]
    wanted = dict(ChainMap(*everywhere(world, "naming tensors", lambda: shapes({"model": entries}))))
    with each_for_itself():
        stored = on_main(world, "listing tensors", lambda: _weights(checkpoint))
    plan = growth(wanted, stored, checkpoint.name, encoder_follows=bool(run.init.vision_model))
    unused = {name for name in stored.keys() - wanted.keys() if name.startswith(STEM)} if _encodes(wanted) else set()
    on_main(world, "comparing shapes", lambda: _require_fit(checkpoint, wanted, stored, plan, unused))
    remarks = on_main(world, "comparing settings", lambda: _compare(checkpoint, reached.config, run.model, plan))
    own, copied = _split(entries, plan)
    with each_for_itself():
        everywhere(world, "reading tensors", lambda: fill(checkpoint, own, model))
        everywhere(world, "reading copies", lambda: fill(checkpoint, copied, model))
    if world.is_main:
        say(f"first weights from {checkpoint}: {len(wanted) - len(plan.copies) - len(plan.drawn)} tensors")
        for remark in (*plan.remarks, *remarks):
            say(remark)
        if unused:
            say(f"the patch stem in {checkpoint.name} is not used: this model has an encoder")


def _weights(checkpoint: Path) -> Shapes:
    stored = stored_shapes(checkpoint)
    return {name: shape for name, shape in stored.items() if not name.startswith(OPTIMIZER_PREFIX)}


def _encodes(names: Mapping[str, object]) -> bool:
    return any(name.startswith(ENCODER) for name in names)


def _require_fit(checkpoint: Path, wanted: Shapes, stored: Shapes, plan: Growth, unused: set[str]) -> None:
    source = {name: plan.copies.get(name, name) for name in sorted(wanted.keys() - plan.drawn)}
    found = [f"{name} is not in it" for name in source if source[name] not in stored]
    found += [
        f"{name} is in it, but not in this model" for name in sorted(stored.keys() - set(source.values()) - unused)
    ]
    found += [
        f"{origin} has shape {stored[origin]}, this model wants {shape} for {name}"
        for name, origin in source.items()
        for shape in (wanted[name] if origin == name else twin_shape(name, wanted[name]),)
        if origin in stored and stored[origin] != shape
    ]
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise CheckpointError(
            f"init.checkpoint {checkpoint} does not fit this model: {'; '.join(found[:SHOWN])}{more}. Use the model "
            f"settings that wrote it ({progress.NAME} in that folder holds them); only modality or sparse experts, an "
            "encoder and special embeddings may be new"
        )


def _compare(checkpoint: Path, config: Mapping[str, Any], model: ModelConfig, plan: Growth) -> list[str]:
    """Remarks on settings that differ from the checkpoint's. Raises where its weights would lose their meaning."""
    faults: list[str] = []
    old = from_json(ModelConfig, config.get("model", {}), "model", faults, complete=False)
    if faults:
        return [f"note: the model settings in {checkpoint.name} cannot be compared: {faults[0]}"]
    without_encoder = any(name.startswith(ENCODER) for name in plan.drawn) or not model.vision.depth
    skipped = "model.vision." if without_encoder else "-"
    cut = _differing(CUT, old, model, skipped)
    if cut:
        told = "; ".join(f"{key} was {before}, now {now}" for key, (before, now) in cut.items())
        remedy = " ".join(f"--set {key}={before}" for key, (before, _) in cut.items())
        raise CheckpointError(
            f"init.checkpoint {checkpoint} was trained with other heads: {told}. Its weights fit and would mean "
            f"nothing; use {remedy}"
        )
    kept = _differing(KEPT, old, model, skipped)
    return [f"note: {key} was {before} in {checkpoint.name}, now {now}" for key, (before, now) in kept.items()]


def _differing(
    settings: Mapping[str, Setting], old: ModelConfig, new: ModelConfig, skipped: str
) -> dict[str, tuple[object, object]]:
    pairs = {key: (value(old), value(new)) for key, value in settings.items() if not key.startswith(skipped)}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _split(entries: Mapping[str, Any], plan: Growth) -> tuple[dict[str, Any], dict[str, Any]]:
    """This rank's tensors: those read under their own name, and those read under another one.

    Every expert of a layer begins as the MLP before it: that is read once, whole, and stands for all of them.

    Two sets, because a name may be asked for once in each read. Objects (megatron-core's empty extra states) are left
    out: new parts have none in the checkpoint.
    """
    own, copied = {}, {}
    for name, entry in entries.items():
        if isinstance(entry, ShardedObject):
            continue
        if entry.key in plan.copies:
            copied[name] = _of_twin(entry, plan.copies[entry.key])
        elif entry.key not in plan.drawn:
            own[name] = entry
    return own, copied


def _of_twin(entry: Any, key: str) -> Any:
    """What is read of the stored tensor ``key`` for ``entry``, a tensor or a factory of this model."""
    if isinstance(entry, ShardedTensor) and twin_shape(entry.key, entry.global_shape) != entry.global_shape:
        mould = torch.empty(twin_shape(entry.key, entry.global_shape), dtype=entry.data.dtype)
        return ShardedTensor.from_rank_offsets(key, mould)
    copied = copy.copy(entry)
    copied.key = key
    return copied
