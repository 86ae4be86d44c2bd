"""The same packs reach training whatever the number of ranks, after any seek, with any number of threads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_nmm.config.schema import RunConfig, SourceConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.corpus import Corpus
from megatron_nmm.data.decoders.pillow import PillowDecoder
from megatron_nmm.data.ledger import Phase
from megatron_nmm.data.load import image_patches
from megatron_nmm.data.stream import Stream, stream
from megatron_nmm.data.tables import read_table
from megatron_nmm.errors import ConfigError, DataError
from tests.data.corpora import RULE, mixed_and_text, mixed_records, png, run_config, tokenizer

LENGTH = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two packed corpora: mixed (90 samples) and text (20)."""
    return mixed_and_text(tmp_path_factory.mktemp("stream"), mixed_records(90))


def _run(folder: Path, **data: object) -> RunConfig:
    return run_config(folder, [("mixed", 0.7), ("text", 0.3)], **data)


def _ids(batches: list[Batch]) -> list[tuple[str, ...]]:
    return [row for batch in batches for row in batch.sample_ids]


def _steps(reading: Stream, count: int) -> list[list[tuple[str, ...]]]:
    return [_ids(reading.next_step()) for _ in range(count)]


def test_every_number_of_ranks_reads_the_same_global_batches(folder: Path) -> None:
    run = _run(folder)
    with stream(run, 0, 1) as one:
        whole = _steps(one, 12)
    for size in (2, 4):
        ranks = [stream(run, rank, size) for rank in range(size)]
        parts = [_steps(rank, 12) for rank in ranks]
        assert [[row for part in parts for row in part[step]] for step in range(12)] == whole


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_seek_continues_as_if_never_stopped(folder: Path, workers: int) -> None:
    run = _run(folder, workers=workers, noise=0.5, augment=True)
    with stream(run, 0, 1) as reading, stream(run, 0, 1) as resumed:
        for _ in range(5):
            reading.next_step()
        assert reading.consumed == 40
        resumed.next_step()
        resumed.seek(40)
        for _ in range(3):
            for left, right in zip(reading.next_step(), resumed.next_step(), strict=True):
                assert left.sample_ids == right.sample_ids
                assert torch.equal(left.patches, right.patches) and torch.equal(left.tokens, right.tokens)
        resumed.seek(0)
        assert resumed.consumed == 0
        reading.seek(0)
        assert _steps(reading, 2) == _steps(resumed, 2)


def test_another_global_batch_continues_the_same_order(folder: Path) -> None:
    with stream(_run(folder), 0, 1) as eight, stream(_run(folder, global_batch=4), 0, 1) as four:
        eight.next_step()
        four.seek(8)
        assert [row for step in _steps(four, 4) for row in step] == [row for step in _steps(eight, 2) for row in step]


def test_every_sample_once_per_epoch(folder: Path) -> None:
    run = run_config(folder, [("mixed", 1.0)], microbatch=1, global_batch=1)
    packs = len(read_table(folder / "mixed" / f"plan-{LENGTH}" / "plan.parquet"))
    with stream(run, 0, 1) as reading:
        epochs = [[row for step in _steps(reading, packs) for row in step] for _ in range(2)]
    for rows in epochs:
        assert sorted(sample for row in rows for sample in row) == sorted(values["id"] for values in mixed_records(90))
    assert epochs[0] != epochs[1] and sorted(epochs[0]) == sorted(epochs[1])


def test_batches_carry_source_kind_and_tokens_of_their_samples(folder: Path) -> None:
    run = _run(folder)
    samples = {}
    for index, name in enumerate(("mixed", "text")):
        opened = Corpus(folder / name)
        samples |= {opened.sample(n).id: (index, opened.sample(n)) for n in range(len(opened))}
    with stream(run, 0, 1) as reading:
        assert reading.source_names == ("mixed", "text")
        batches = [batch for _ in range(4) for batch in reading.next_step()]
    assert {int(s) for batch in batches for s in batch.source.unique()} == {0, 1}
    for batch in batches:
        assert batch.tokens.shape == (2, LENGTH)
        for row, ids in enumerate(batch.sample_ids):
            for sample_id, start in zip(ids, batch.document_starts[row].tolist(), strict=False):
                source, sample = samples[sample_id]
                where = slice(start, start + len(sample.tokens))
                assert batch.tokens[row, where].tolist() == sample.tokens.tolist()
                assert set(batch.source[row, where].tolist()) == {source}
                assert set(batch.kind[row, where].tolist()) == {sample.kind}


def test_patches_are_those_of_the_images(folder: Path) -> None:
    with stream(_run(folder), 0, 1) as reading:
        batch = next(batch for batch in reading.next_step() if len(batch.image_blocks))
    plain = {image_patches(png(seed), RULE, PillowDecoder())[0][0].tobytes() for seed in range(5)}
    patches = batch.patches.numpy().reshape(-1, 4, RULE.patch * RULE.patch * 3)
    assert {image.tobytes() for image in patches} <= plain


def test_variation_depends_on_seed_sample_and_epoch_alone(folder: Path) -> None:
    run = run_config(folder, [("mixed", 1.0)], noise=0.3, augment=True, microbatch=1, global_batch=1)
    packs = len(read_table(folder / "mixed" / f"plan-{LENGTH}" / "plan.parquet"))

    def patches(run: RunConfig, rank: int, size: int) -> dict[tuple[str, int], bytes]:
        """(first sample of a row, epoch) -> the row's patches, over two epochs."""
        found = {}
        with stream(run, rank, size) as reading:
            while reading.consumed < 2 * packs:
                epoch = (reading.consumed + rank) // packs
                (batch,) = reading.next_step()
                found[batch.sample_ids[0][0], epoch] = batch.patches.numpy().tobytes()
        return found

    whole = patches(run, 0, 1)
    second_of_two = patches(replace(run, data=replace(run.data, global_batch=2)), 1, 2)
    assert len(whole) == 2 * packs
    shared = [key for key in second_of_two if key in whole]
    assert len(shared) >= packs - 1 and all(second_of_two[key] == whole[key] for key in shared)
    with_images = [sample for (sample, epoch), value in whole.items() if epoch == 0 and value]
    assert with_images and all(whole[sample, 0] != whole[sample, 1] for sample in with_images)
    reseeded = patches(replace(run, seed=run.seed + 1), 0, 1)
    assert all(value != whole[key] for key, value in reseeded.items() if value)


def test_drawn_counts_packs_and_epochs(folder: Path) -> None:
    with stream(_run(folder), 0, 1) as reading:
        for _ in range(5):
            reading.next_step()
        drawn = reading.drawn()
    sizes = [len(read_table(folder / name / f"plan-{LENGTH}" / "plan.parquet")) for name in ("mixed", "text")]
    assert drawn == {"mixed": (28, 28 / sizes[0]), "text": (12, 12 / sizes[1])}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_finite_mixture_is_read_to_its_last_step_and_no_further(folder: Path, workers: int) -> None:
    packs = len(read_table(folder / "text" / f"plan-{LENGTH}" / "plan.parquet"))
    run = run_config(folder, [("text", 1.0)], microbatch=1, global_batch=1, workers=workers)
    source = replace(run.data.train[0], max_epochs=1.0)
    run = replace(run, steps=packs, data=replace(run.data, train=(source,)))
    with stream(run, 0, 1) as reading:
        rows = [row for step in _steps(reading, packs) for row in step]
        assert len(set(rows)) == packs and reading.epochs() == {"text": 1.0}
        with pytest.raises(ConfigError, match=rf"reads {packs + 1} packs .* raise data\.train\.N\.max_epochs"):
            reading.next_step()
    # A mixture that another one went before may have drawn some of them already.
    with stream(run, 0, 1) as reading:
        reading.seek(packs - 1, Phase(packs - 2, (packs - 2,)))
        assert _steps(reading, 1) == [rows[-1:]]
        assert reading.drawn() == {"text": (packs, 1.0)}


def test_sources_of_one_name_are_told_apart(folder: Path) -> None:
    with stream(run_config(folder, [("text", 1), ("mixed", 1), ("text", 1)]), 0, 1) as reading:
        assert reading.source_names == ("text-1", "mixed", "text-2")


def test_reading_ahead_reports_the_wait(folder: Path) -> None:
    with stream(_run(folder, workers=1), 0, 1) as reading:
        reading.next_step()
        assert reading.wait_s > 0
        assert np.isfinite(reading.wait_s)


def test_a_run_that_does_not_fit_its_data_is_refused(folder: Path, tmp_path: Path) -> None:
    run = _run(folder)

    def refused(error: type[Exception], message: str, **data: object) -> None:
        changed = replace(run, data=replace(run.data, **data))  # type: ignore[arg-type]
        with pytest.raises(error, match=message), stream(changed, 0, 1) as reading:
            reading.next_step()

    refused(
        ConfigError,
        r"data\.global_batch 7 is not divisible by data\.microbatch 2 x .* size 1 = 2; use data\.global_batch 6 or",
        global_batch=7,
    )
    refused(ConfigError, r"the mixture has no sources; set data\.train", train=())
    refused(DataError, r"corpus .*nowhere does not exist", train=(SourceConfig(str(folder / "nowhere")),))
    refused(
        DataError, r"report\.json does not exist; make it with tools/pack\.py --sequence-length 64", sequence_length=64
    )
    refused(DataError, r"set data\.tokenizer to that file", tokenizer=str(tokenizer(tmp_path, seed=1).path))
    refused(DataError, r"does not exist; train one with tools/train_tokenizer\.py", tokenizer=str(folder / "x"))
    refused(DataError, r"run has data\.image_size=16 and model\.vision\.patch=4", image_size=16)
    refused(DataError, r"image size 9 is not a multiple of patch 4; use 8", image_size=9)
    small = replace(run, model=replace(run.model, vocabulary=100))
    with pytest.raises(ConfigError, match=r"model\.vocabulary 100 is smaller than the 320 pieces"):
        stream(small, 0, 1)
    with stream(run, 0, 1) as reading, pytest.raises(ConfigError, match="cannot continue after -1 packs"):
        reading.seek(-1)


def test_plan_may_stand_elsewhere(folder: Path, tmp_path: Path) -> None:
    run = _run(folder)
    plan = tmp_path / "moved"
    plan.symlink_to(folder / "text" / f"plan-{LENGTH}")
    moved = replace(run, data=replace(run.data, train=(SourceConfig(str(folder / "text"), plan=str(plan)),)))
    with stream(moved, 0, 1) as reading:
        assert reading.source_names == ("text",)
