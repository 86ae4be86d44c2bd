"""The parameters that one rank holds, tensor by tensor: which of them the tensor group splits and experts share out."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from megatron_nmm.config.schema import RunConfig
from megatron_nmm.config.schema_model import ModelConfig
from megatron_nmm.models.accounting.tensors import DECODER_LAYER, SPARSE, TENSORS, VISUAL, Tensor
from megatron_nmm.planner.place import Place

Split = Literal["tensor", "encoder", "expert", "whole"]

SPLIT: dict[str, Split] = {
    **dict.fromkeys(("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"), "tensor"),
    **dict.fromkeys(("word_embeddings", "output_layer"), "tensor"),
    **{f"vision.{name}": "encoder" for name in ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")},
    "vision.linear_fc1.bias": "encoder",
    "vision.linear_qkv.bias": "encoder",
    "experts.linear_fc1": "expert",
    "experts.linear_fc2": "expert",
}
"""Tensor -> the group that shares it; a twin of image tokens goes with the text's, all others are whole on every rank.
"encoder": the tensor group, where it splits the encoder's matrices (models/vision/placement.py)."""

PIECES = dict.fromkeys(
    (
        *("vision.layer_norms", "vision.layer_norms.bias", "vision.qk_norms", "vision.layer_scales"),
        "connector.norm",
    ),
    2,
)
"""Rows of the table that stand for more than one tensor: padding between tensors counts each."""

ON_LAST = frozenset({"final_layernorm", "output_layer"})
IN_LAYERS = frozenset({*DECODER_LAYER, *SPARSE, *VISUAL})
"""All others stand on the first stage."""

ALIGNED, BUCKET = 64, 128
"""Values that megatron-core starts a parameter at, and ends a bucket at, where the optimizer is sharded."""


@dataclass(frozen=True)
class Held:
    """One tensor, or its copies in all layers of a rank."""

    name: str
    values: int
    copies: int
    trained: bool
    expert: bool
    """Whether sparse experts' ranks share it."""
    shared_table: bool = False
    """A tied embedding table: its gradient stands in a bucket of its own."""

    @property
    def total(self) -> int:
        """Values of all copies."""
        return self.values * self.copies


def held(run: RunConfig, place: Place, rank: int) -> tuple[Held, ...]:
    """Every parameter of pipeline rank ``rank``, as each of its tensor ranks holds it."""
    return tuple(one for one in _held(run, place, rank) if one.total)


def _held(run: RunConfig, place: Place, rank: int) -> Iterator[Held]:
    model, layers = run.model, place.layers[rank]
    mine = replace(
        model,
        layers=len(layers),
        sparse=replace(model.sparse, dense_layers=tuple(i for i, layer in enumerate(layers) if _dense(model, layer))),
    )
    first, last = rank == 0, rank == place.pipeline - 1
    tied_copy = model.tie_embeddings and last and not first
    for name, tensor in TENSORS.items():
        of = mine if name in IN_LAYERS else model
        here = name in IN_LAYERS or (last if name in ON_LAST else first)
        copies = tensor.copies(of)
        table = name == "word_embeddings" and model.tie_embeddings
        if (here or (table and tied_copy)) and copies:
            yield _share(run, place, name, tensor, copies, table and place.pipeline > 1)


def _share(run: RunConfig, place: Place, name: str, tensor: Tensor, copies: int, shared_table: bool) -> Held:
    """One rank's share of ``copies`` of ``tensor``."""
    split = SPLIT.get(name.removeprefix("visual."), "whole")
    parts = {"tensor": place.tensor, "encoder": place.encoder}.get(split, 1)
    values, odd = divmod(tensor.values(run.model), parts)
    assert not odd, f"{name} of a legal layout divides by {parts}"
    trained = getattr(run.optim.rates, tensor.part) > 0
    if split == "expert":
        # One tensor holds a matrix of every expert of the rank.
        layers = copies // run.model.sparse.experts
        return Held(name, values * run.model.sparse.experts // place.expert, layers, trained, expert=True)
    pieces = PIECES.get(name, 1)
    return Held(name, values // pieces, copies * pieces, trained, expert=False, shared_table=shared_table)


def _dense(model: ModelConfig, layer: int) -> bool:
    """Whether ``layer`` keeps one MLP although the model has sparse experts."""
    return layer in model.sparse.dense_layers


def buffer_values(tensors: Sequence[Held], replicas: int, *, sharded: bool) -> int:
    """Values of megatron-core's gradient buffer for ``tensors`` (trained ones, in the order of ``held``); padded where
    the optimizer is sharded over ``replicas`` ranks."""
    if not sharded:
        return sum(one.total for one in tensors)
    unit = math.lcm(replicas, BUCKET)
    return sum(_up(sum(_up(one.values, ALIGNED) * one.copies for one in bucket), unit) for bucket in _buckets(tensors))


def _buckets(tensors: Sequence[Held]) -> Iterator[list[Held]]:
    """A table tied across stages has a bucket of its own, and parts those before it from those behind it."""
    for _, bucket in groupby(tensors, key=lambda one: one.shared_table):
        yield list(bucket)


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
