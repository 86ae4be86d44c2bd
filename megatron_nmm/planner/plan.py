"""The plan: every legal layout with its memory, traffic and predicted time, those that fit ranked by the latter."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from megatron_nmm.config.fault import config_error, either
from megatron_nmm.config.recipes import facts
from megatron_nmm.config.schema import RunConfig
from megatron_nmm.errors import ConfigError
from megatron_nmm.planner.efficiency import Shares
from megatron_nmm.planner.gpus import GPUS, Gpu
from megatron_nmm.planner.layouts import RECOMPUTE, common_faults, families, nearest_counts
from megatron_nmm.planner.load import typical
from megatron_nmm.planner.memory import Memory, memory
from megatron_nmm.planner.place import Place
from megatron_nmm.planner.time import Seconds, bubble, image_share, model_flops, rank_seconds, step_seconds
from megatron_nmm.planner.traffic import Flow, flows


@dataclass(frozen=True)
class Option:
    """One legal layout and what it costs."""

    run: RunConfig
    place: Place
    memory: Memory
    """Of the fullest rank."""
    rank: int
    """Its pipeline rank."""
    ranks: tuple[Seconds, ...]
    """Time of each pipeline rank."""
    sent: tuple[Flow, ...]
    """By the pipeline rank that sends for longest."""
    seconds: float
    """Of a step."""
    flops: float
    """Of a step of the whole job, without recomputation."""

    image_flops: float
    """Share of ``flops`` that patches and encoder take."""

    @property
    def bubble(self) -> float:
        """Share of a step that ranks of an even pipeline would wait."""
        return bubble(self.place.pipeline, self.place.microbatches, self.place.virtual)

    @property
    def imbalance(self) -> float:
        """The slowest stage's time over the mean: what the encoder, the output layer and uneven layers cost."""
        each = [rank.microbatches for rank in self.ranks]
        return max(each) * len(each) / sum(each)

    def mfu(self, gpu: Gpu) -> float:
        """Model FLOPs as a share of the job's bf16 peak."""
        return self.flops / (self.seconds * gpu.bf16 * self.place.world)

    def tokens_per_second(self) -> float:
        """Decoder positions a GPU and second, images and padding included."""
        return self.run.data.global_batch * self.run.data.sequence_length / self.seconds / self.place.world


@dataclass(frozen=True)
class Plan:
    """All legal layouts of a run on a number of GPUs."""

    gpu: Gpu
    gpus: int
    fitting: tuple[Option, ...]
    """Those that fit, the fastest first."""
    legal: int
    """How many are legal."""

    @property
    def best(self) -> Option:
        """The fastest of those that fit."""
        return self.fitting[0]


def plan(run: RunConfig, gpus: int, gpu: Gpu, shares: Shares) -> Plan:
    """Rank the layouts of ``run``; ConfigError when none is legal or none fits, with what would help."""
    row = facts(run.precision)
    if row and not row.runs_on(gpu.capability):
        able = [name for name, one in GPUS.items() if row.runs_on(one.capability)]
        fact = f"precision.recipe {run.precision.recipe} does not run on {gpu.name}"
        raise ConfigError(f"{fact}; use --gpu {either(able)}, or precision.recipe plain")
    room = gpu.memory * shares["usable"]
    if everywhere := common_faults(run, gpus):
        raise config_error(f"{run.name} cannot be planned in any layout", everywhere)
    sizes = _sizes(run, gpus, room)
    if not sizes:
        raise ConfigError(_no_layout(run, gpus))
    options = [option(run, place, gpu, shares) for run, place, used in sizes if used.total <= room]
    if not options:
        raise ConfigError(_no_room(run, gpus, gpu, shares, sizes))
    return Plan(gpu, gpus, tuple(sorted(options, key=lambda one: one.seconds)), len(sizes))


def option(run: RunConfig, place: Place, gpu: Gpu, shares: Shares) -> Option:
    """What one layout costs."""
    load = typical(run, place)
    rank, used = fullest(run, place)
    sent = [flows(run, place, each, load) for each in range(place.pipeline)]
    ranks = [rank_seconds(run, place, each, load, gpu, shares, sent[each]) for each in range(place.pipeline)]
    slowest = max(range(place.pipeline), key=lambda each: ranks[each].sent + ranks[each].reduced)
    return Option(
        run=run,
        place=place,
        memory=used,
        rank=rank,
        ranks=tuple(ranks),
        sent=tuple(sent[slowest]),
        seconds=step_seconds(ranks, place),
        flops=model_flops(run, load, place),
        image_flops=image_share(run, load),
    )


def fullest(run: RunConfig, place: Place) -> tuple[int, Memory]:
    """(pipeline rank, memory) of the rank that allocates most."""
    load = typical(run, place)
    each = [memory(run, place, rank, load) for rank in range(place.pipeline)]
    rank = max(range(place.pipeline), key=lambda rank: each[rank].total)
    return rank, each[rank]


Sized = tuple[RunConfig, Place, Memory]


def _sizes(run: RunConfig, gpus: int, room: float) -> list[Sized]:
    """Every legal layout with the memory of its fullest rank, recomputing as little as fits into ``room`` bytes."""
    found = []
    for family in families(run, gpus):
        sized: Sized | None = None
        for changed in family:
            place = Place.of(changed, gpus)
            sized = (changed, place, fullest(changed, place)[1])
            if sized[2].total <= room:
                break
        if sized:
            found.append(sized)
    return found


def by_mode(one: Option) -> dict[str, float]:
    """Bytes of the fullest rank's activations by what is recomputed, in this option's layout."""
    found = {}
    for mode in RECOMPUTE:
        run = replace(one.run, parallel=replace(one.run.parallel, recompute=mode))
        used = fullest(run, replace(one.place, recompute=mode))[1]
        found[mode] = used.activations + used.working
    return found


def _no_layout(run: RunConfig, gpus: int) -> str:
    """Why there is none, and how many GPUs would do."""
    counts = nearest_counts(run, gpus)
    remedy = (
        f"use --gpus {either(counts)}" if counts else "change data.global_batch, of which data ranks take equal parts"
    )
    return (
        f"no layout of {run.name} is legal on {gpus} GPUs with data.global_batch {run.data.global_batch} and "
        f"{run.model.layers} layers; {remedy}"
    )


def _no_room(run: RunConfig, gpus: int, gpu: Gpu, shares: Shares, sizes: Sequence[Sized]) -> str:
    """How many bytes are missing in the smallest layout, and what would help."""
    changed, place, used = min(sizes, key=lambda sized: sized[2].total)
    room = gpu.memory * shares["usable"]
    largest = max(("weights", "gradients", "optimizer", "activations", "working"), key=lambda kind: getattr(used, kind))
    return (
        f"{run.name} fits in no layout on {gpus} x {gpu.name}: the smallest of {len(sizes)} (tensor {place.tensor}, "
        f"pipeline {place.pipeline}, expert {place.expert}, recompute {changed.parallel.recompute}) needs "
        f"{used.total / 1e9:.1f} GB on its fullest rank, {(used.total - room) / 1e9:.1f} GB more than the "
        f"{room / 1e9:.1f} GB that are usable, and most of it for {largest} "
        f"({getattr(used, largest) / 1e9:.1f} GB); {_what_helps(run, gpus, gpu, shares, used)}"
    )


def _what_helps(run: RunConfig, gpus: int, gpu: Gpu, shares: Shares, used: Memory) -> str:
    """A larger GPU, or more of them: those that are known to fit."""
    larger = [name for name, one in GPUS.items() if used.total <= one.memory * shares["usable"]]
    ways = [f"--gpu {either(larger)}"] if larger else []
    # Doubling divides optimizer state at least; beyond a few doublings nothing more is split.
    more = (gpus * 2**times for times in range(1, 6))
    room = gpu.memory * shares["usable"]
    enough = next((n for n in more if any(sized[2].total <= room for sized in _sizes(run, n, room))), None)
    if enough:
        ways.append(f"--gpus {enough}")
    ways.append("a shorter data.sequence_length")
    return f"use {', or '.join(ways)}"
