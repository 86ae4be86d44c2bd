"""The kinds of Hugging Face folders, one entry each: rows of weights, config.json both ways, what each cannot hold."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from megatron_nmm.checkpoint.convert import native_config, navil_config, text_config
from megatron_nmm.checkpoint.convert.limits import Limit
from megatron_nmm.checkpoint.families import LANGUAGE, native, navil
from megatron_nmm.checkpoint.rows import Row
from megatron_nmm.config import ModelConfig, RunConfig
from megatron_nmm.config.fault import either
from megatron_nmm.config.hf_config import NAME, UNUSABLE, Raw, Refusal
from megatron_nmm.config.values import from_json
from megatron_nmm.errors import CheckpointError

DERIVED = r".*\.rotary_emb\.inv_freq"
"""What older folders store although it follows from their config.json."""
IMAGE_PART = r"(vision_encoder|patch_stem|special_embedding)\..*|decoder\.layers\.\d+\.(self_attention|mlp)\.visual\..*"
"""Our tensors that a model of text alone has no place for."""


@dataclass(frozen=True)
class Kind:
    """One ``model_type``."""

    rows: Callable[[ModelConfig, int], tuple[Row, ...]]
    """Rows of a model with so many rows in its vocabulary."""
    settings: Callable[[Raw], Mapping[str, Any]]
    """Setting -> value, from config.json."""
    config: Callable[[RunConfig], Mapping[str, Any]]
    """config.json of a run's model."""
    limits: Sequence[Limit] = ()
    """What a model must be to be written in this form."""
    refusals: Callable[[Raw], Iterator[tuple[Raw, Refusal]]] = lambda raw: iter(())
    """What in a folder is refused, with the part of config.json that it looks at."""
    left: str = "(?!)"
    """Pattern of our tensors that this form leaves out."""
    own: bool = False
    """Whether the exported folder carries this package's model and processor."""


def _text(kind: str) -> Kind:
    return Kind(
        rows=LANGUAGE[kind],
        settings=partial(text_config.settings, kind),
        config=partial(text_config.config_json, kind),
        limits=text_config.LIMITS[kind],
        refusals=partial(text_config.refusals, kind),
        left=IMAGE_PART,
    )


KINDS: Mapping[str, Kind] = {
    native_config.MODEL_TYPE: Kind(native.rows, native_config.settings, native_config.config_json, own=True),
    navil_config.MODEL_TYPE: Kind(
        navil.rows,
        navil_config.settings,
        navil_config.config_json,
        navil_config.LIMITS,
        navil_config.refusals,
    ),
    **{kind: _text(kind) for kind in LANGUAGE},
}
"""By ``model_type`` of config.json; the first is this package's own."""


def kind_of(raw: Raw, where: str) -> tuple[Kind, RunConfig]:
    """The kind of a folder and the run that its config.json describes; ``where`` names it in messages.

    Raises CheckpointError for an unknown kind, for what is refused, and for values that are missing or make no sense.
    """
    name = str(raw.get("model_type"))
    if name not in KINDS:
        raise CheckpointError(
            f"{where} holds a model of type {name!r}, which cannot be converted; use {either(tuple(KINDS))}"
        )
    kind = KINDS[name]
    try:
        values = dict(kind.settings(raw))
        faults: list[str] = []
        run = from_json(RunConfig, _tree(values), "", faults, complete=False)
        if not faults:
            faults = [text for text in (rule.found(part, run) for part, rule in kind.refusals(raw)) if text]
    except UNUSABLE as fault:
        raise CheckpointError(
            f"{where} has a {NAME} that makes no sense ({type(fault).__name__}: {fault}); fetch it again"
        ) from fault
    if faults:
        raise CheckpointError(f"{where} {'; '.join(faults)}; use a model without that")
    assert isinstance(run, RunConfig), "from_json returns what it was asked for when it reports no fault"
    return kind, run


def _tree(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys -> nested dicts, as JSON has them."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = list(value) if isinstance(value, tuple) else value
    return tree


def require_expressible(name: str, run: RunConfig) -> None:
    """Raise CheckpointError when the model of ``run`` is more than a folder of kind ``name`` can say."""
    if found := [limit.told(run) for limit in KINDS[name].limits if not limit.holds(run)]:
        raise CheckpointError(
            f"this model cannot be written as {name}: {'; '.join(found)}. Use --family {native_config.MODEL_TYPE}"
        )
