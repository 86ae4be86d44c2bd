"""The work of a batch is counted as the FLOP tables want it, and rates are those of the whole job."""

from dataclasses import replace

import pytest

from megatron_nmm.config import ParallelConfig, RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.accounting import attended_pairs, step_flops
from megatron_nmm.train.meter import Meter, Reading, work
from megatron_nmm.verify import layouts, synthetic
from megatron_nmm.verify.workers import Place, WorkerPool

RUN = layouts.toy(RunConfig())


def _pairs(batch: Batch, mask: str) -> int:
    """The table's own count, row by row."""
    total = 0
    for row in range(batch.rows):
        blocks = [(int(start), int(end)) for at, start, end in batch.image_blocks.tolist() if at == row]
        lengths = [int(length) for length in batch.document_starts[row].diff()]
        total += attended_pairs(lengths, blocks, mask)  # type: ignore[arg-type]
    return total


@pytest.mark.parametrize("mask", ["bidirectional", "causal"])
@pytest.mark.parametrize("images", [True, False])
def test_work_of_a_batch(mask: str, images: bool) -> None:
    for batch in synthetic.batches(RUN, 3, seed=5, images=images):
        tokens, pairs, patches, supervised = work(batch, mask == "bidirectional").tolist()
        assert tokens == batch.rows * batch.sequence_length
        assert pairs == _pairs(batch, mask)
        assert patches == (batch.modality == 1).sum()
        assert supervised == batch.loss_weight.sum()


def test_rates_are_those_of_all_ranks(pool: WorkerPool) -> None:
    batches = synthetic.batches(RUN, 4, seed=1)
    tokens, pairs, patches, supervised = sum(work(batch, True) for batch in batches).tolist()  # type: ignore[union-attr]
    for parallel in (ParallelConfig(), ParallelConfig(tensor=2)):
        readings: list[Reading] = pool.run(2, _read, replace(RUN, parallel=parallel))
        for reading in readings:
            ratio = reading.flops_per_second / reading.tokens_per_second
            expected = step_flops(RUN.model, int(tokens), int(pairs), int(patches), int(supervised)).total / tokens
            assert ratio == pytest.approx(expected)
            assert reading.image_tokens_per_second / reading.tokens_per_second == pytest.approx(patches / tokens)
            assert reading.data_wait_s == 1.5
            assert (reading.samples, reading.replaced) == (7, 1 if parallel.tensor == 1 else 0)
            assert reading.memory_bytes > 1 << 20
        assert readings[0].tokens_per_second * readings[0].seconds == pytest.approx(tokens)


def _read(place: Place, run: RunConfig) -> Reading:
    """Each data rank counts its share of four microbatches; rank 1 waits longest."""
    with place.world(run.parallel) as world:
        meter = Meter(run, world)
        mine = synthetic.batches(run, 4, seed=1)[world.data_rank :: world.data_size]
        # Data rank 0 plans 3 samples of two ranks', data rank 1 plans 4 and replaces one; alone, 0 plans all seven.
        samples = (3, 4)[world.data_rank] if world.data_size == 2 else 7
        meter.add(mine, 0.5 + place.rank, samples, world.data_rank)
        return meter.read()
