"""Bytes that one rank sends in a step, collective by collective, and over which link they go.

Collectives are rings: of n ranks each sends (n - 1) / n of the tensor to gather or scatter it, twice that to sum it.
A group whose ranks stand in one node stays on the node's links; any other is as fast as the network.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from megatron_nmm.config.schema import RunConfig
from megatron_nmm.models.accounting import parameters
from megatron_nmm.models.accounting.activations import FP32, Layer
from megatron_nmm.models.vision.placement import VALUE_BYTES
from megatron_nmm.planner.gpus import NODE
from megatron_nmm.planner.load import Load, decoder_layer, encoder_layer
from megatron_nmm.planner.place import Place
from megatron_nmm.planner.weights import buffer_values, held

Link = Literal["node", "network"]
Kind = Literal["tensor", "context", "expert", "pipeline", "data"]


@dataclass(frozen=True)
class Flow:
    """What one rank sends of one kind."""

    kind: Kind
    what: str
    ranks: int
    link: Link
    bytes: float
    """Over that link in a step."""
    each_microbatch: bool
    """Sent with every microbatch; else once a step."""
    overlapped: bool = False
    """Sent while the rank computes."""


def flows(run: RunConfig, place: Place, rank: int, load: Load) -> list[Flow]:
    """What a rank of pipeline rank ``rank`` sends; nothing of groups of one."""
    found = [*_tensor(run, place, rank, load), *_context(run, place, rank, load), *_expert(run, place, rank, load)]
    found += [*_pipeline(run, place, rank, load), *_data(run, place, rank)]
    return [flow for flow in found if flow.bytes]


def link(span: int) -> Link:
    """Of a group whose first and last rank stand ``span`` - 1 apart; a group starts at a multiple of its span."""
    return "node" if span <= NODE and NODE % span == 0 else "network"


def ring(ranks: int) -> float:
    """Share of a tensor that each of ``ranks`` sends to gather or scatter it."""
    return (ranks - 1) / ranks


def _passes(place: Place) -> int:
    """Forward passes of a layer."""
    return 2 if place.recompute == "full" else 1


def layer_sends(layer: Layer, passes: int, *, encoder: bool = False) -> float:
    """How often a layer's tensor group gathers or scatters its rows in a step; a sum counts as two.

    Attention and MLP each enter and leave the group once. megatron-core's own linear layers gather their input again
    for the weight gradient, rather than keep it; those split by modality keep it.
    """
    branches = [layer.split_attention] + ([] if layer.experts else [layer.split_mlp])
    if layer.sequence == 1:
        return len(branches) * 2 * (passes + 1)
    return sum(2 * (passes + 1) + (0 if split else 1) for split in branches)


def _tensor(run: RunConfig, place: Place, rank: int, load: Load) -> Iterator[Flow]:
    model, value, times = run.model, VALUE_BYTES[run.precision.dtype], place.microbatches
    tokens, share = load.decoder.tokens, ring(place.tensor) * place.microbatches * value
    layers = [decoder_layer(run, place, layer) for layer in place.layers[rank]]
    where = link(place.tensor)
    sends = sum(layer_sends(layer, _passes(place)) for layer in layers) * tokens * model.width
    yield Flow("tensor", "decoder layers", place.tensor, where, share * sends, True)
    if rank == 0:
        # Summed over the vocabulary's parts; under sequence parallelism the gradient is gathered.
        embedding = tokens * model.width * (3 if place.sequence > 1 else 2)
        yield Flow("tensor", "embedding", place.tensor, where, share * embedding, True)
    if rank == place.pipeline - 1:
        rows = tokens if place.sequence > 1 else load.work.logit_tokens / place.context
        yield Flow("tensor", "output layer", place.tensor, where, share * 2 * rows * model.width, True)
    if rank == 0 and model.vision.depth:
        yield from _encoder(run, place, load, times)


def _encoder(run: RunConfig, place: Place, load: Load, times: int) -> Iterator[Flow]:
    """Features in every layer where the group splits matrices; else tokens once, and gradients once a step."""
    model, vision, value = run.model, run.model.vision, VALUE_BYTES[run.precision.dtype]
    layer, where = encoder_layer(run, place), link(place.tensor)
    tokens = load.work.patches / vision.shuffle**2 / place.context * model.width
    share = ring(place.tensor)
    if place.encoder > 1:
        sends = vision.depth * layer_sends(layer, _passes(place)) * load.encoder.tokens * vision.width
        yield Flow("tensor", "encoder layers", place.tensor, where, share * times * value * sends, True)
    if place.encoder == 1 or layer.sequence > 1:
        yield Flow("tensor", "image tokens", place.tensor, where, share * times * value * tokens, True)
    if place.encoder == 1 and place.tensor > 1:
        counted = parameters(model)
        trained = counted.vision * (run.optim.rates.vision > 0) + counted.connector * (run.optim.rates.connector > 0)
        yield Flow("tensor", "encoder gradients", place.tensor, where, 2 * share * FP32 * trained, False)


def _context(run: RunConfig, place: Place, rank: int, load: Load) -> Iterator[Flow]:
    """Keys and values of all positions, gathered in every layer, and their gradients scattered back."""
    value, whole = VALUE_BYTES[run.precision.dtype], load.decoder.tokens * place.context
    keys = 2 * run.model.kv_heads * run.model.head_width / place.tensor
    again = 2 if place.recompute != "none" else 1
    sends = len(place.layers[rank]) * (again + 1) * whole * keys * value * place.microbatches
    span = place.tensor * place.context
    yield Flow("context", "keys and values", place.context, link(span), ring(place.context) * sends, True)


def _expert(run: RunConfig, place: Place, rank: int, load: Load) -> Iterator[Flow]:
    """Rows to their experts and answers back; of those, the share that lies in other nodes goes over the network."""
    model, value = run.model, VALUE_BYTES[run.precision.dtype]
    if not model.sparse_layers:
        return
    layers = sum(layer in model.sparse_layers for layer in place.layers[rank])
    rows = load.work.filled_tokens / place.context / place.sequence * model.sparse.top_k
    sends = layers * 2 * (_passes(place) + 1) * rows * model.width * value * place.microbatches
    near = min(NODE, place.expert)
    yield Flow("expert", "rows in the node", place.expert, "node", sends * (near - 1) / place.expert, True)
    yield Flow("expert", "rows to other nodes", place.expert, "network", sends * (1 - near / place.expert), True)


def _pipeline(run: RunConfig, place: Place, rank: int, load: Load) -> Iterator[Flow]:
    """Hidden states to the next stage, their gradients to the one before; in rounds, so many times more."""
    stream = load.decoder.tokens / place.sequence * run.model.width * VALUE_BYTES[run.precision.dtype]
    pieces = place.pipeline * place.virtual
    mine = range(rank, pieces, place.pipeline)
    sends = sum((piece < pieces - 1) + (piece > 0) for piece in mine) * stream * place.microbatches
    yield Flow("pipeline", "hidden states", place.pipeline, link(place.world), sends, True)


def _data(run: RunConfig, place: Place, rank: int) -> Iterator[Flow]:
    """Gradients summed in fp32 over ranks with the same weights; with a sharded optimizer scattered, and weights
    gathered. Ranks of a node share the way out of it."""
    parallel = run.parallel
    value, sharded = VALUE_BYTES[run.precision.dtype], parallel.distributed_optimizer
    tensors = held(run, place, rank)
    for expert, of, stride in ((False, "", place.tensor), (True, "expert ", place.expert)):
        replicas = place.replicas(expert=expert)
        trained = [one for one in tensors if one.trained and one.expert == expert]
        values = buffer_values(trained, replicas, sharded=sharded)
        sends = values * ring(replicas)
        where = link(place.stage)
        if where == "network" and replicas > 1:
            local = max(1, min(replicas, NODE // stride))
            sends *= ring(-(-replicas // local)) / ring(replicas) / local
        gradients = sends * FP32 * (1 if sharded else 2)
        yield Flow("data", f"{of}gradients", replicas, where, gradients, False, parallel.overlap_gradients)
        if sharded:
            yield Flow("data", f"{of}weights", replicas, where, sends * value, False, parallel.overlap_weights)
