"""Any rank of a job in this process: its groups over a backend that moves nothing, its shard and step without data."""

import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from megatron_nmm.config import RunConfig
from megatron_nmm.config.check import require
from megatron_nmm.data.batch import Batch
from megatron_nmm.device import meta
from megatron_nmm.dry_run.load import microbatch
from megatron_nmm.dry_run.memory import KINDS, Memory
from megatron_nmm.dry_run.report import Collective, Group, JobReport, MemoryReport, RankReport, Stage, Stray, Wait
from megatron_nmm.dry_run.sites import BETWEEN, Site, shown
from megatron_nmm.dry_run.step import named_groups, prepare, take_step
from megatron_nmm.dry_run.watch import Watch
from megatron_nmm.errors import ConfigError, NMMError
from megatron_nmm.models.parts import part_of
from megatron_nmm.parallel.world import World

PLACES = ("tensor", "context", "expert", "data", "pipeline")
"""Groups in which a rank's place is told."""
DISPATCHER = "kernels"


class DryRunError(NMMError):
    """A rank's step cannot be taken; names the line."""


@dataclass(frozen=True)
class Job:
    """What all ranks of a dry run share."""

    run: RunConfig
    size: int
    device: meta.MetaDevice
    batch: Batch

    @staticmethod
    def of(run: RunConfig, size: int, device: str, *, fused_weight_gradient: bool = True) -> "Job":
        """``run`` on ``size`` ranks of a "gpu" or "cpu"; ConfigError for a layout that could not start."""
        require(run, size)
        if run.model.sparse_layers and run.parallel.dispatcher != DISPATCHER:
            raise ConfigError(
                f"parallel.dispatcher {run.parallel.dispatcher} asks its data for sizes in places a dry run has no "
                f"answer for; use --set parallel.dispatcher={DISPATCHER}, which sends the same rows"
            )
        stands_for = meta.like(device, fused_weight_gradient=fused_weight_gradient)
        stands_for.start(0, 1, 0)
        return Job(run, size, stands_for, microbatch(run))

    def report(self, ranks: tuple[RankReport, ...]) -> JobReport:
        """The job with what was found out about ``ranks``."""
        run, batch = self.run, self.batch
        even = f"every expert takes the same {run.model.sparse.top_k}/{run.model.sparse.experts} of the tokens"
        load = {
            "rows": batch.rows,
            "tokens": batch.tokens.numel(),
            "image tokens": len(batch.patch_targets),
            "patches": len(batch.patches),
            "supervised tokens": int(batch.loss_weight.count_nonzero()),
        }
        name = self.device.like.name
        return JobReport(run.name, self.size, name, load, even if run.model.sparse_layers else "", ranks)


def dry_run(job: Job, rank: int, stands_for: int = 1, most: int | None = None) -> RankReport:
    """Take ``rank``'s step. ConfigError for a rank the job has not; DryRunError names the line that fails.

    ``most``: microbatches to run at most; None = one more than the pipeline holds at a time, the first that finds it
    as all later ones do.
    """
    if not 0 <= rank < job.size:
        raise ConfigError(f"rank {rank} is none of a world of {job.size}; use 0 to {job.size - 1}")
    start = time.perf_counter()
    memory = Memory(meta.META.type)
    watch = Watch(memory, meta.META)
    with meta.aimed(job.device, watch.wait, memory.one_kernel), _telling_where(rank):
        world = World.join(job.run.parallel, job.device, job.run.seed, rank=rank, size=job.size, init_method=None)
        seconds_for_groups = time.perf_counter() - start
        try:
            built = prepare(job.run, world, watch)
            steps = job.run.data.global_batch // (job.run.data.microbatch * world.data_size)
            run = min(steps, most or job.run.parallel.pipeline + 1)
            take_step(built, [job.batch] * run, world, watch)
            return RankReport(
                rank=rank,
                stands_for=stands_for,
                places={name: dist.get_rank(group) for name, group in _places(world).items()},
                groups=tuple(_groups(job.run, world)),
                stage=_stage(built.model),
                memory=MemoryReport(memory.peak_total, _told(memory.peak), _told(memory.live)),
                **_seen(watch, steps, run),
                microbatches=steps,
                microbatches_run=run,
                seconds=time.perf_counter() - start,
                seconds_for_groups=seconds_for_groups,
            )
        finally:
            world.close()


def _places(world: World) -> dict[str, Any]:
    """Groups in which the rank has a place that says something."""
    groups = named_groups(world)
    return {name: groups[name] for name in PLACES if name in groups and dist.get_world_size(groups[name]) > 1}


def _groups(run: RunConfig, world: World) -> Iterator[Group]:
    """Groups of more than this rank; those of experts where there are some."""
    for name, group in named_groups(world).items():
        ranks = tuple(dist.get_process_group_ranks(group))
        if len(ranks) > 1 and (run.model.sparse_layers or not name.startswith("expert")):
            yield Group(name, ranks)


def _stage(model: Any) -> Stage:
    """What ``model`` (megatron-core's DistributedDataParallel) holds."""
    by_part: dict[str, int] = {}
    for name, param in model.named_parameters():
        by_part[part_of(name)] = by_part.get(part_of(name), 0) + param.numel()
    inner = model.module
    parts = []
    if hasattr(inner, "vision_encoder"):
        encoder = inner.vision_encoder
        how = "whole" if encoder.placed == "data" else "sliced"
        parts.append(f"vision encoder ({len(encoder.block.layers)} layers, {how})")
    elif hasattr(inner, "patch_stem"):
        parts.append("patch stem")
    if hasattr(inner, "embedding"):
        parts.append("embeddings")
    numbers = [layer.layer_number for layer in inner.decoder.layers]
    if numbers:
        parts.append(f"decoder layers {numbers[0]}-{numbers[-1]}")
    if inner.post_process:
        parts.append("output layer")
    return Stage(tuple(parts), sum(by_part.values()), by_part)


def _told(bytes_by_kind: Mapping[Any, int]) -> dict[str, int]:
    return {kind: bytes_by_kind[kind] for kind in KINDS}


def _seen(watch: Watch, steps: int, run: int) -> dict[str, Any]:
    """Collectives, waits and strays of a whole step: what happens in a microbatch is counted for all of them."""
    seen = watch.seen
    calls: dict[tuple[str, str], tuple[int, int]] = {}
    for call, times in seen.calls.items():
        share = steps / run if call.in_microbatch else 1
        before = calls.get((call.name, call.group), (0, 0))
        sent = before[1] + round(seen.sent[call] * share)
        calls[call.name, call.group] = (before[0] + round(times * share), sent)
    waits: dict[tuple[str, Site], int] = {}
    for wait, times in seen.waits.items():
        share = steps / run if wait.in_microbatch else 1
        waits[wait.what, wait.site] = waits.get((wait.what, wait.site), 0) + round(times * share)
    return {
        "collectives": tuple(Collective(*key, *value) for key, value in sorted(calls.items())),
        "waits": tuple(Wait(what, str(site), times, site.allowed) for (what, site), times in waits.items()),
        "strays": tuple(Stray(what, str(site), times) for (what, site), times in seen.strays.items()),
    }


@contextmanager
def _telling_where(rank: int) -> Iterator[None]:
    """Turn what goes wrong inside into a DryRunError that names the line it went wrong at."""
    try:
        yield
    except NMMError:
        raise
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError, KeyError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if not frame.filename.startswith(BETWEEN)]
        place = ours[-1] if ours else frames[-1]
        what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise DryRunError(
            f"rank {rank} cannot take its step: {what}, at {shown(place.filename)}:{place.lineno} in {place.name}; "
            "the cluster would stop there too, unless the operation merely has no form without data"
        ) from error
