"""Seconds of a training step: products at their rate, the rest at the memory's, what is sent at its link's, and the
pipeline's waiting. A prediction from data sheets and the assumptions of efficiency.py."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from megatron_nmm.config.recipes import facts
from megatron_nmm.config.schema import RatesConfig, RunConfig
from megatron_nmm.config.schema_model import ModelConfig
from megatron_nmm.models.accounting import Flops, Work, step_flops
from megatron_nmm.models.accounting.activations import FP32
from megatron_nmm.models.accounting.flops import decoder_terms
from megatron_nmm.planner.efficiency import Shares
from megatron_nmm.planner.gpus import Gpu
from megatron_nmm.planner.load import Load
from megatron_nmm.planner.memory import activations
from megatron_nmm.planner.place import Place
from megatron_nmm.planner.traffic import Flow, Link
from megatron_nmm.planner.weights import held

ATTENTION = frozenset({"attention_scores", "attention_values", "vision.attention_scores", "vision.attention_values"})
EXPERTS = frozenset({"experts.linear_fc1", "experts.linear_fc2"})
PLAIN = frozenset({"output_layer", "router", "patch_stem", "vision.patch_stem", "connector.fc1", "connector.fc2"})
"""Products that stay in bf16 when the layers' run in FP8."""

PASSES = 4
"""Times that norms, rotations, gates and residuals read or write each byte kept, forward and backward."""
ACCUMULATE = 12
"""Bytes a weight and microbatch: its gradient is written in bf16, read, and added to the fp32 buffer."""
UPDATE = 30
"""Bytes a weight that AdamW reads and writes: fp32 weight, two moments and gradient; all but the latter and bf16."""


@dataclass(frozen=True)
class Seconds:
    """Where one rank's time goes in a step, waiting for the pipeline aside."""

    products: float
    attention: float
    rest: float
    """Norms, gates, residuals; gradients added up."""
    sent: float
    """With every microbatch, not hidden."""
    reduced: float
    """Once a step: gradients and weights over data ranks, not hidden."""
    update: float

    @property
    def microbatches(self) -> float:
        """Of all microbatches."""
        return self.products + self.attention + self.rest + self.sent


def bubble(pipeline: int, microbatches: int, virtual: int = 1) -> float:
    """Share of a step that ranks of an even pipeline wait: (p - 1) / (v m + p - 1) of one forward, one backward."""
    return (pipeline - 1) / (virtual * microbatches + pipeline - 1)


def step_seconds(ranks: Sequence[Seconds], place: Place) -> float:
    """A step of all pipeline ranks: the slowest works through all microbatches, the others' first and last are waited
    for once, in pieces of 1 / v."""
    each = [rank.microbatches / place.microbatches for rank in ranks]
    waiting = (sum(each) - max(each)) / place.virtual
    once = max(rank.reduced + rank.update for rank in ranks)
    return place.microbatches * max(each) + waiting + once


def rank_seconds(
    run: RunConfig, place: Place, rank: int, load: Load, gpu: Gpu, shares: Shares, sent: Sequence[Flow]
) -> Seconds:
    """The time of pipeline rank ``rank``; ``sent`` are its flows."""
    work = operations(run, place, rank, load)
    peak = gpu.fp8 if facts(run.precision) else gpu.bf16
    cut = place.tensor * place.context
    products = work.layers / (peak * shares["products"]) + work.plain / (gpu.bf16 * shares["products"])
    products += work.experts / (peak * shares["experts"]) + work.again / (peak * shares["products"])
    tensors = [one for one in held(run, place, rank) if one.trained]
    memory = gpu.bandwidth * shares["memory"]
    # What passes through memory is what would be kept without recomputation.
    kept = activations(run, replace(place, recompute="none"), rank, load, "compiled")
    weights = sum(one.total for one in tensors)
    touched = PASSES * (kept.layers + kept.images) + ACCUMULATE * weights
    sharded = run.parallel.distributed_optimizer
    stepped = sum(one.total / (place.replicas(expert=one.expert) if sharded else 1) for one in tensors)
    return Seconds(
        products=place.microbatches * products / cut,
        attention=place.microbatches * work.attention / cut / (gpu.bf16 * shares["attention"]),
        rest=place.microbatches * touched / memory,
        sent=sum(flow_seconds(flow, gpu, shares) for flow in sent if flow.each_microbatch),
        reduced=sum(flow_seconds(flow, gpu, shares) for flow in sent if not flow.each_microbatch),
        update=(UPDATE * stepped + FP32 * weights) / memory,
    )


def flow_seconds(flow: Flow, gpu: Gpu, shares: Shares) -> float:
    """Of what is sent, the part that nothing hides."""
    rates: dict[Link, float] = {"node": gpu.node_link, "network": gpu.network}
    data = shares["data_overlap"] if flow.overlapped else 0.0
    hidden = {"data": data, "pipeline": 0.0}.get(flow.kind, shares["tensor_overlap"])
    return flow.bytes * (1 - hidden) / (rates[flow.link] * shares[flow.link])


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of one microbatch on all ranks of a stage's copy, forward and backward."""

    layers: float
    """Products that FP8 may run."""
    plain: float
    experts: float
    attention: float
    again: float
    """Of recomputed layers, a second forward pass."""

    @property
    def model(self) -> float:
        """Those the model needs."""
        return self.layers + self.plain + self.experts + self.attention


@lru_cache(1024)
def _flops(model: ModelConfig, work: Work, rates: RatesConfig | None = None) -> Flops:
    """As ``step_flops``; layouts share what a microbatch costs."""
    return step_flops(model, work, rates)


def operations(run: RunConfig, place: Place, rank: int, load: Load) -> Operations:
    """Of pipeline rank ``rank``; the encoder stands on the first, the output layer on the last."""
    decoder = decoder_terms()
    layers = len(place.layers[rank]) / run.model.layers
    kinds = {"layers": 0.0, "plain": 0.0, "experts": 0.0, "attention": 0.0}
    whole = _flops(run.model, load.work, run.optim.rates)
    for name, flops in whole.by_term.items():
        last = name == "output_layer"
        share = layers if name in decoder else float(rank == (place.pipeline - 1 if last else 0))
        kind = (
            "attention"
            if name in ATTENTION
            else "experts"
            if name in EXPERTS
            else "plain"
            if name in PLAIN
            else "layers"
        )
        kinds[kind] += share * flops
    return Operations(**kinds, again=_again(run, place, load, layers, first=rank == 0))


def _again(run: RunConfig, place: Place, load: Load, layers: float, *, first: bool) -> float:
    """Forward operations that recomputation repeats."""
    if place.recompute == "none":
        return 0.0
    if place.recompute == "selective":
        return layers * 4 * load.work.attended_pairs * run.model.heads * run.model.head_width * run.model.layers
    forward = _flops(run.model, load.work).forward
    rest = _flops(replace(run.model, layers=0), load.work).forward
    logits = 2 * load.work.logit_tokens * run.model.vocabulary * run.model.width
    encoder = rest - logits if run.model.vision.depth and first else 0.0
    return layers * (forward - rest) + encoder


def model_flops(run: RunConfig, load: Load, place: Place) -> float:
    """Operations that a step of the whole job needs, without recomputation."""
    return _flops(run.model, load.work, run.optim.rates).total * place.microbatches * place.data


def image_share(run: RunConfig, load: Load) -> float:
    """Share of a step's operations that patches, encoder and connector take."""
    by_term = _flops(run.model, load.work, run.optim.rates).by_term
    before = set(by_term) - decoder_terms() - {"output_layer"}
    return sum(by_term[name] for name in before) / sum(by_term.values())
