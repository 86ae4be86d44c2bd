"""The groups of a dry run are those that megatron-core builds over real collectives; those of 1024 take a moment."""

from dataclasses import replace

import pytest
import torch.distributed as dist

from megatron_nmm.config import ParallelConfig
from megatron_nmm.device import meta
from megatron_nmm.dry_run.memory import Memory
from megatron_nmm.dry_run.rank import Job, dry_run
from megatron_nmm.dry_run.report import RankReport
from megatron_nmm.dry_run.step import named_groups
from megatron_nmm.parallel.world import World
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.dry_run.models import small

LAYOUTS = {
    "TP2xPP2": ParallelConfig(tensor=2, pipeline=2),
    "PP2xDP2": ParallelConfig(pipeline=2),
    "EP2xDP2": ParallelConfig(expert=2),
    "EP2xTP2+SP": ParallelConfig(expert=2, tensor=2, sequence=True),
    "EP2xPP2": ParallelConfig(expert=2, pipeline=2),
    "PP4": ParallelConfig(pipeline=4),
}
Ranks = dict[str, list[int]]


def members(world: World) -> Ranks:
    """Name of each group -> its ranks."""
    return {name: dist.get_process_group_ranks(group) for name, group in named_groups(world).items()}


def both(place: Place, parallel: ParallelConfig) -> tuple[Ranks, Ranks]:
    """This rank's groups with all the others, and alone."""
    with place.world(parallel) as world:
        real = members(world)
    device = meta.like("cpu")
    device.start(0, 1, 1)
    with meta.aimed(device, lambda: None, Memory("meta").one_kernel):
        world = World.join(parallel, device, 1, rank=place.rank, size=place.size, init_method=None)
        alone = members(world)
        world.close()
    return real, alone


@pytest.mark.parametrize("layout", LAYOUTS)
def test_groups_are_megatron_cores_own(pool: WorkerPool, layout: str) -> None:
    found = pool.run(4, both, LAYOUTS[layout])
    for real, alone in found:
        assert real == alone
    assert {"tensor", "pipeline", "data", "expert", "expert data", "optimizer"} <= found[0][0].keys()


def one_of_1024(place: Place) -> RankReport:
    run = small("sparse", ParallelConfig(tensor=2, sequence=True, pipeline=4, expert=4))
    run = replace(run, data=replace(run.data, global_batch=256, microbatch=2))
    return dry_run(Job.of(run, 1024, "gpu"), 517)


def test_the_groups_of_1024_ranks(pool: WorkerPool) -> None:
    report: RankReport = pool.run(1, one_of_1024)[0]
    assert report.seconds_for_groups < 5.0
    ranks = {group.name: group.ranks for group in report.groups}
    assert ranks["pipeline"] == (5, 261, 517, 773)
    assert ranks["tensor"] == (516, 517)
    assert ranks["expert"] == (516, 517, 518, 519)
    assert len(ranks["data"]) == 128 and len(ranks["expert data"]) == 64 and len(ranks["optimizer"]) == 1024
    assert report.places == {"tensor": 1, "expert": 1, "data": 2, "pipeline": 2}
