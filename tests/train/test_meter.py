"""The work of a batch is counted as the FLOP tables want it, and rates are those of the whole job."""

from dataclasses import replace

import pytest
import torch

from megatron_nmm.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    RatesConfig,
    RunConfig,
    VisionConfig,
)
from megatron_nmm.config.presets import navil, sparse_early_fusion
from megatron_nmm.config.schema_model import ImageMask
from megatron_nmm.data.batch import Batch
from megatron_nmm.models.accounting import Work, attended_pairs, step_flops, window_pairs
from megatron_nmm.train.meter import Meter, Reading, batch_flops, work
from megatron_nmm.verify import layouts, synthetic
from megatron_nmm.verify.workers import Place, WorkerPool

RUN = layouts.toy(RunConfig())
NATIVE = DataConfig(image_rule="native", multi_scale=True, augment=False)
WINDOWED = layouts.toy(RunConfig(model=ModelConfig(vision=VisionConfig(depth=24, window=8, full_layers=(1,)))))
NAVIL = layouts.toy(RunConfig(model=navil("2b"), data=NATIVE))
SPARSE = layouts.toy(RunConfig(model=sparse_early_fusion("0.275b", "8e-top2-fine")))


def _pairs(batch: Batch, mask: ImageMask) -> int:
    """The table's own count, row by row."""
    total = 0
    for row in range(batch.rows):
        blocks = [(int(start), int(end)) for at, start, end in batch.image_blocks.tolist() if at == row]
        lengths = [int(length) for length in batch.document_starts[row].diff()]
        total += attended_pairs(lengths, blocks, mask)
    return total


@pytest.mark.parametrize("run", [RUN, WINDOWED, NAVIL], ids=["early", "windows", "NaViL"])
@pytest.mark.parametrize("mask", ["bidirectional", "causal"])
@pytest.mark.parametrize("images", [True, False])
def test_work_of_a_batch(run: RunConfig, mask: ImageMask, images: bool) -> None:
    model = replace(run.model, image_mask=mask)
    for batch in synthetic.batches(run, 3, seed=5, images=images):
        views = [(int(rows), int(columns)) for rows, columns in batch.grids]
        assert work(batch, model) == Work(
            tokens=batch.rows * batch.sequence_length,
            attended_pairs=_pairs(batch, mask),
            logit_tokens=int(batch.loss_weight.sum()),
            patches=int((batch.modality == 1).sum()) * model.vision.shuffle**2,
            filled_tokens=int((batch.tokens != synthetic.SPECIAL["pad"]).sum()),
            visual_tokens=int(
                (batch.modality == 1).sum() + (batch.tokens == synthetic.SPECIAL["begin_of_image"]).sum()
            ),
            view_pairs=sum((rows * columns) ** 2 for rows, columns in views),
            window_pairs=sum(window_pairs(*view, model.vision.window) for view in views),
        )
        assert bool(views) == images


def test_padding_costs_no_experts() -> None:
    """A batch half full takes half of the experts' operations, and all others as before."""
    run = layouts.toy(RunConfig(model=sparse_early_fusion("0.275b")))
    [batch] = synthetic.batches(run, 1, seed=5)
    most, least = (
        step_flops(run.model, work(replace(batch, filled=torch.tensor(filled)), run.model)).by_term
        for filled in ([96, 96], [96, 0])
    )
    assert {name for name in most if most[name] == 2 * least[name]} == {"experts.linear_fc1", "experts.linear_fc2"}
    assert sum(most[name] == least[name] for name in most) == len(most) - 2


def test_flops_of_batches_are_the_sum_of_each() -> None:
    batches = synthetic.batches(NAVIL, 2, seed=5)
    rates = RatesConfig(vision=0)
    each = [step_flops(NAVIL.model, work(batch, NAVIL.model), rates).total for batch in batches]
    assert batch_flops(NAVIL.model, batches, rates) == sum(each) < batch_flops(NAVIL.model, batches)


@pytest.mark.parametrize(
    "run",
    [RUN, SPARSE, NAVIL, replace(NAVIL, optim=OptimConfig(rates=RatesConfig(vision=0, ffn=0)))],
    ids=["early", "sparse", "NaViL", "frozen"],
)
def test_rates_are_those_of_all_ranks(run: RunConfig, pool: WorkerPool) -> None:
    batches = synthetic.batches(run, 4, seed=1)
    tokens = sum(batch.tokens.numel() for batch in batches)
    image_tokens = sum(int((batch.modality == 1).sum()) for batch in batches)
    # Sparse experts under tensor parallelism ask for sequence parallelism.
    tensor = ParallelConfig(tensor=2, sequence=bool(run.model.sparse_layers))
    for parallel in (ParallelConfig(), tensor):
        readings: list[Reading] = pool.run(2, _read, replace(run, parallel=parallel))
        for reading in readings:
            ratio = reading.flops_per_second / reading.tokens_per_second
            assert ratio == pytest.approx(batch_flops(run.model, batches, run.optim.rates) / tokens)
            assert reading.image_tokens_per_second / reading.tokens_per_second == pytest.approx(image_tokens / tokens)
            assert reading.data_wait_s == 1.5
            assert (reading.samples, reading.replaced) == (7, 1 if parallel.tensor == 1 else 0)
            assert reading.memory_bytes > 1 << 20
            filled = sum(int(batch.filled.sum()) for batch in batches)
            assert (reading.tokens, reading.image_tokens) == (2 * filled, 2 * image_tokens)
            assert reading.flops == 2 * batch_flops(run.model, batches, run.optim.rates)
        assert readings[0].tokens_per_second * readings[0].seconds == pytest.approx(tokens)


def _read(place: Place, run: RunConfig) -> Reading:
    """Each data rank counts its share of four microbatches; rank 1 waits longest."""
    with place.world(run.parallel) as world:
        meter = Meter(run, world)
        mine = synthetic.batches(run, 4, seed=1)[world.data_rank :: world.data_size]
        # Data rank 0 plans 3 samples of two ranks', data rank 1 plans 4 and replaces one; alone, 0 plans all seven.
        samples = (3, 4)[world.data_rank] if world.data_size == 2 else 7
        meter.add(mine, 0.0, 0, 0)
        meter.restart()  # what was done so far counts in no rate
        meter.add(mine, 0.5 + place.rank, samples, world.data_rank)
        return meter.read()
