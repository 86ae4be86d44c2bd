"""What a dry run counts is what a real step on CPUs allocates, seen by the same modes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from megatron_nmm.config import ParallelConfig, PrecisionConfig, RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.device import meta
from megatron_nmm.dry_run.load import microbatch
from megatron_nmm.dry_run.memory import Memory
from megatron_nmm.dry_run.rank import Job, dry_run
from megatron_nmm.dry_run.report import RankReport
from megatron_nmm.dry_run.step import prepare, take_step
from megatron_nmm.dry_run.watch import Watch
from megatron_nmm.verify.workers import Place, WorkerPool
from tests.dry_run.models import BF16, STRUCTURES, small

FP32 = PrecisionConfig(dtype="fp32")
STANDING = ("weights", "gradients", "optimizer")
OF_ACTIVATIONS, OF_PEAK = 1e-3, 0.05
"""The latter beside the pixels of a batch: a device has a copy of them, a processor the batch itself, and longer."""
CASES = {
    **{name: (name, ParallelConfig(), FP32, 1) for name in STRUCTURES},
    "bf16": ("navil", ParallelConfig(), BF16, 1),
    "recompute": ("early", ParallelConfig(recompute="full"), BF16, 1),
    "TP2+SP": ("late", ParallelConfig(tensor=2, sequence=True), BF16, 2),
    "TP2, whole encoder": ("navil, odd heads", ParallelConfig(tensor=2), BF16, 2),
    "PP2": ("modality ffn", ParallelConfig(pipeline=2), FP32, 2),
    "DP2+distributed optimizer": ("early", ParallelConfig(distributed_optimizer=True), BF16, 2),
    # In bf16 each expert's rows are filled up, and by how many depends on the router.
    "EP2+distributed optimizer": ("sparse", ParallelConfig(expert=2, distributed_optimizer=True), FP32, 2),
}
Counts = Mapping[str, int]


class Fresh(Sequence[Batch]):
    """Microbatches that come with pixels of their own and go with them, as from a stream."""

    def __init__(self, batch: Batch, count: int) -> None:
        self._batch, self._count = batch, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if index >= self._count:
            raise IndexError(index)
        return replace(self._batch, patches=self._batch.patches.clone())


def real(place: Place, run: RunConfig) -> Counts:
    """Bytes at the peak of a real step on this rank."""
    watch = Watch(Memory("cpu"), torch.device("cpu"))
    with place.world(run.parallel, run.seed) as world:
        count = run.data.global_batch // (run.data.microbatch * world.data_size)
        take_step(prepare(run, world, watch), Fresh(microbatch(run), count), world, watch)
        return dict(watch.memory.peak)


def dry(place: Place, run: RunConfig, size: int) -> list[RankReport]:
    job = Job.of(run, size, "cpu")
    return [dry_run(job, rank) for rank in range(size)]


@pytest.mark.parametrize("case", CASES)
def test_bytes_are_those_of_a_real_step(pool: WorkerPool, case: str) -> None:
    structure, parallel, precision, size = CASES[case]
    run = small(structure, parallel, precision)
    # Rows long enough that activations are most of it.
    run = replace(run, data=replace(run.data, sequence_length=480))
    reports: list[RankReport] = pool.run(1, dry, run, size)[0]
    real_ranks: list[Counts] = pool.run(size, real, run)
    if parallel.expert > 1:
        # Real routers are not even: what one rank has more, another has less.
        mean = {kind: sum(each[kind] for each in real_ranks) // size for kind in ("activations", "temporary")}
        real_ranks = [{**each, **mean} for each in real_ranks]
    for counted, report in zip(real_ranks, reports, strict=True):
        told = report.memory.at_peak
        assert {kind: told[kind] for kind in STANDING} == {kind: counted[kind] for kind in STANDING}
        assert told["activations"] == pytest.approx(counted["activations"], rel=OF_ACTIVATIONS)
        most = OF_PEAK * sum(counted.values()) + microbatch(run).patches.nbytes
        assert report.memory.peak == pytest.approx(sum(counted.values()), abs=most)
        assert report.faults == ()


def capped(place: Place, run: RunConfig, size: int) -> list[tuple[RankReport, RankReport]]:
    job = Job.of(run, size, "gpu")
    return [(dry_run(job, rank), dry_run(job, rank, most=99)) for rank in range(size)]


def test_a_few_microbatches_stand_for_all(pool: WorkerPool) -> None:
    run = small("sparse", ParallelConfig(pipeline=2, expert=2, distributed_optimizer=True))
    run = replace(run, data=replace(run.data, global_batch=16, microbatch=1))
    for few, every in pool.run(1, capped, run, 4)[0]:
        assert (few.microbatches, few.microbatches_run, every.microbatches_run) == (8, 3, 8)
        # A few numbers of every microbatch, its loss among them, are kept until the step ends.
        assert few.memory.peak == pytest.approx(every.memory.peak, rel=1e-3)
        assert few.collectives == every.collectives
        times = [{wait.where: wait.times for wait in report.waits} for report in (few, every)]
        at_stages = [{where: n for where, n in each.items() if "_communicate" not in where} for each in times]
        assert at_stages[0] == at_stages[1]


def test_weights_go_round_once_a_step(pool: WorkerPool) -> None:
    """Sparse experts have a sharded optimizer of their own; neither hands on what the other moves."""
    run = small("sparse", ParallelConfig(expert=2, distributed_optimizer=True))
    for report in pool.run(1, dry, run, 4)[0]:
        gathers = {call.group: call.calls for call in report.collectives if "allgather_into_tensor" in call.name}
        assert gathers == {"data": 1, "expert data": 1}


def test_the_kernel_of_a_gpu_keeps_no_scores() -> None:
    """T x T probabilities would be the larger part of a layer's memory."""
    from megatron_nmm.models.attention import outline

    query, key = (torch.empty(1, heads, 1024, 64, device=meta.META, requires_grad=True) for heads in (8, 2))
    memory = Memory("meta")
    with Watch(memory, meta.META):
        out = outline.attention(query, key, key, block_mask=None, scale=1.0, enable_gqa=True)
        assert out.shape == query.shape
        assert memory.total == 4 * 8 * 1024 * (64 + 1)
        out.backward(torch.empty_like(out))
    assert query.grad is not None and key.grad is not None and key.grad.shape == key.shape
