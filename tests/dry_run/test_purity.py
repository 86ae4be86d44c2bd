"""Every model's step keeps off the host: no stray tensor, and no wait for the device but those that are planned."""

import pytest

from megatron_nmm.config import ParallelConfig
from megatron_nmm.dry_run.rank import Job, dry_run
from megatron_nmm.dry_run.report import RankReport
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.dry_run.models import STRUCTURES, small

AROUND = {"_tokens_of_step", "_over_all_ranks", "get_grad_norm_fp32", "any"}
"""Functions that wait once a step, before and behind its microbatches."""
TENSOR = ParallelConfig(tensor=2, sequence=True, distributed_optimizer=True)
STAGES = ParallelConfig(tensor=2, sequence=True, pipeline=2, recompute="full")
EXPERTS = ParallelConfig(expert=4, distributed_optimizer=True)
SPARSE = tuple(name for name in STRUCTURES if name.startswith("sparse"))


def ranks_of(place: Place, structure: str, parallel: ParallelConfig, size: int, ranks: tuple[int, ...]) -> object:
    job = Job.of(small(structure, parallel), size, "gpu")
    return [dry_run(job, rank) for rank in ranks]


def reports(
    pool: WorkerPool, structure: str, parallel: ParallelConfig, size: int, ranks: tuple[int, ...]
) -> list[RankReport]:
    """The dry runs of some ranks, in a worker process."""
    found: list[RankReport] = pool.run(1, ranks_of, structure, parallel, size, ranks)[0]
    return found


def waiting(report: RankReport) -> set[str]:
    """The functions in which the host waits for its device."""
    return {wait.where.rpartition(" in ")[2] for wait in report.waits}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_step_waits_for_nothing_within_its_microbatches(pool: WorkerPool, structure: str) -> None:
    (report,) = reports(pool, structure, TENSOR, 4, (3,))
    assert report.faults == ()
    assert waiting(report) == AROUND


@pytest.mark.parametrize("structure", STRUCTURES)
def test_stages_wait_behind_what_they_send_each_other(pool: WorkerPool, structure: str) -> None:
    for report in reports(pool, structure, STAGES, 4, (0, 3)):
        assert report.faults == ()
        assert waiting(report) == AROUND | {"_communicate"}


@pytest.mark.parametrize("structure", SPARSE)
def test_experts_on_other_ranks_cost_one_wait_a_layer(pool: WorkerPool, structure: str) -> None:
    (report,) = reports(pool, structure, EXPERTS, 4, (1,))
    layers = len(small(structure).model.sparse_layers)
    assert report.faults == ()
    assert waiting(report) == AROUND | {"token_dispatch"}
    assert [wait.times for wait in report.waits if "token_dispatch" in wait.where] == [layers * report.microbatches]
