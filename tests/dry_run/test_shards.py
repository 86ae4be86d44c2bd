"""Shards hold exactly what the tables count, and one rank of a role stands for the others."""

from collections import Counter
from dataclasses import replace

import pytest

from megatron_nmm.config import ParallelConfig, RunConfig
from megatron_nmm.config.presets import navil, sparse_early_fusion
from megatron_nmm.device import meta
from megatron_nmm.dry_run.load import microbatch
from megatron_nmm.dry_run.memory import Memory
from megatron_nmm.dry_run.rank import Job, dry_run
from megatron_nmm.dry_run.report import RankReport
from megatron_nmm.dry_run.roles import representatives
from megatron_nmm.models.accounting import parameters
from megatron_nmm.models.build import build
from megatron_nmm.models.parts import part_of
from megatron_nmm.parallel.world import World
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.dry_run.models import small

LARGE = {
    "NaViL-9B": (navil("9b"), 36, 1),
    "P1's largest, sparse": (sparse_early_fusion("8.129b"), 24, 8),
}
"""Model, its layers, ranks that share its experts."""


def counted(place: Place, run: RunConfig, ranks: list[int], size: int) -> list[Counter[str]]:
    """Parameters of each rank by part."""
    device = meta.like("gpu")
    device.start(0, 1, 1)
    found = []
    with meta.aimed(device, lambda: None, Memory("meta").one_kernel):
        for rank in ranks:
            world = World.join(run.parallel, device, 1, rank=rank, size=size, init_method=None)
            parts: Counter[str] = Counter()
            for name, param in build(run, world).named_parameters():
                parts[part_of(name)] += param.numel()
            found.append(parts)
            world.close()
    return found


@pytest.mark.parametrize("name", LARGE)
def test_the_ranks_of_one_copy_hold_what_the_tables_count(pool: WorkerPool, name: str) -> None:
    """Stages and expert ranks side by side; what expert ranks hold alike counts once."""
    model, _, experts = LARGE[name]
    run = RunConfig(model=model, parallel=ParallelConfig(pipeline=4, expert=experts))
    ranks = [stage * experts + expert for stage in range(4) for expert in range(experts)]
    whole: Counter[str] = Counter()
    for rank, parts in zip(ranks, pool.run(1, counted, run, ranks, 4 * experts)[0], strict=True):
        split = {"ffn"} if experts > 1 else set()
        whole += Counter({part: n for part, n in parts.items() if part in split or rank % experts == 0})
    assert whole == dict(parameters(model).by_part)


def built(place: Place, run: RunConfig) -> int:
    with place.world(run.parallel) as world:
        return sum(param.numel() for param in build(run, world).parameters())


@pytest.mark.parametrize("structure", ["navil", "navil, odd heads", "sparse, top-2, a dense layer"])
def test_a_shard_is_as_large_as_the_real_one(pool: WorkerPool, structure: str) -> None:
    run = small(structure, ParallelConfig(tensor=2, sequence=True, pipeline=2))
    alone = [sum(parts.values()) for parts in pool.run(1, counted, run, [0, 1, 2, 3], 4)[0]]
    assert pool.run(4, built, run) == alone


def every(place: Place, run: RunConfig, size: int) -> list[RankReport]:
    job = Job.of(run, size, "gpu")
    return [dry_run(job, rank) for rank in range(size)]


ROLES = {
    "navil, odd heads": (ParallelConfig(tensor=2, sequence=True, pipeline=2, distributed_optimizer=True), 8),
    "sparse": (ParallelConfig(tensor=2, sequence=True, pipeline=2, expert=2), 8),
}


@pytest.mark.parametrize("structure", ROLES)
def test_one_rank_of_a_role_stands_for_the_others(pool: WorkerPool, structure: str) -> None:
    parallel, size = ROLES[structure]
    run = small(structure, parallel)
    roles = representatives(run, size, microbatch(run))
    assert sum(roles.values()) == size and len(roles) < size
    reports = pool.run(1, every, run, size)[0]
    leaders = sorted(roles)
    for report in reports:
        alike = [leader for leader in leaders if reports[leader].stage == report.stage]
        # Shards of the optimizer differ by padding alone.
        peaks = [reports[leader].memory.peak for leader in alike]
        assert any(report.memory.peak == pytest.approx(peak, rel=2e-3) for peak in peaks)
        assert any(report.collectives == reports[leader].collectives for leader in alike)


def test_images_spread_over_a_tensor_group_make_roles_of_their_own() -> None:
    run = small("navil, odd heads", ParallelConfig(tensor=8, pipeline=2))
    run = replace(
        run,
        model=replace(run.model, heads=8, query_groups=8),
        data=replace(run.data, microbatch=1, sequence_length=132),
    )
    batch = microbatch(run)
    views = len(batch.grids)
    roles = representatives(run, 32, batch)
    # The first ranks take one view more than the others, each for both of its data ranks; the second stage is alike.
    assert views % 8
    assert roles == {0: 2 * (views % 8), views % 8: 2 * (8 - views % 8), 16: 16}
    alike = small("late", ParallelConfig(tensor=2, pipeline=2))
    assert representatives(alike, 8, microbatch(alike)) == {0: 4, 4: 4}
