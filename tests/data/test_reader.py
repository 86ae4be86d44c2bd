"""A sample whose image cannot be decoded is replaced, reported, and the same for every rank, worker and epoch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_nmm.config.schema import RunConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.corpus import Corpus
from megatron_nmm.data.load import Loaded, Loader
from megatron_nmm.data.quarantine import BadSample
from megatron_nmm.data.stream import stream
from megatron_nmm.errors import DataError
from tests.data.corpora import corpus, record, run_config
from tests.data.damage import own_images, rot

SAMPLES = 90
ROTTEN = ("caption-4", "interleaved-5", "caption-31")
STEPS = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run over mixed samples, three of them rotten; two stand next to each other."""
    folder = tmp_path_factory.mktemp("reader")
    corpus(folder, "mixed", own_images(folder, SAMPLES))
    rot(folder / "mixed", ROTTEN)
    return run_config(folder, [("mixed", 1.0)], noise=0.3)


def _read(run: RunConfig, rank: int, size: int) -> tuple[list[list[Batch]], list[tuple[BadSample, ...]], list[int]]:
    """Per step of one rank: its batches, bad samples and samples replaced."""
    batches, bad, replaced = [], [], []
    with stream(run, rank, size) as reading:
        for _ in range(STEPS):
            batches.append(reading.next_step())
            bad.append(reading.bad)
            replaced.append(reading.replaced)
    return batches, bad, replaced


@pytest.mark.parametrize("workers", [0, 2])
def test_every_layout_sees_the_same_batches(run: RunConfig, workers: int) -> None:
    run = replace(run, data=replace(run.data, workers=workers))
    batches, bad, replaced = _read(run, 0, 1)
    assert sum(replaced) >= len(ROTTEN)
    parts = [_read(run, rank, 2) for rank in range(2)]
    for step in range(STEPS):
        halves = [batch for part in parts for batch in part[0][step]]
        for left, right in zip(batches[step], halves, strict=True):
            assert left.sample_ids == right.sample_ids
            assert torch.equal(left.tokens, right.tokens) and torch.equal(left.patches, right.patches)
        assert set(bad[step]) == {sample for part in parts for sample in part[1][step]}
        assert replaced[step] == sum(part[2][step] for part in parts)


def test_what_is_bad_is_told_and_left_out_and_the_rest_is_there(run: RunConfig) -> None:
    batches, bad, _ = _read(run, 0, 1)
    met = {sample.sample: sample for step in bad for sample in step}
    assert set(met) == set(ROTTEN)
    opened = Corpus(run.data.train[0].corpus)
    for sample in met.values():
        assert opened.sample(sample.number).id == sample.sample
        assert (sample.fingerprint, sample.corpus) == (opened.fingerprint, str(opened.folder))
        assert (Path(sample.corpus) / sample.shard / "images.bin").is_file()
        assert sample.image == opened.sample(sample.number).images[0][1]
        assert "image" in sample.reason
    read = {sample for step in batches for batch in step for row in batch.sample_ids for sample in row}
    assert read == {opened.sample(number).id for number in range(SAMPLES)} - set(ROTTEN)


def test_a_passing_fault_costs_nothing(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    failed: set[int] = set()
    real = Loader.load

    def fail_once(self: Loader, corpus: Corpus, source: int, number: int, epoch: int) -> Loaded:
        if number not in failed:
            failed.add(number)
            raise DataError("the disk hiccups")
        return real(self, corpus, source, number, epoch)

    expected, bad, replaced = _read(run, 0, 1)
    monkeypatch.setattr(Loader, "load", fail_once)
    found = _read(run, 0, 1)
    assert [b.sample_ids for step in found[0] for b in step] == [b.sample_ids for step in expected for b in step]
    assert (found[1], found[2]) == (bad, replaced)
    assert len(failed) == SAMPLES


def test_a_fault_of_no_single_image_keeps_its_reason(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Loader.load

    def refuse(self: Loader, corpus: Corpus, source: int, number: int, epoch: int) -> Loaded:
        if corpus.sample(number).id == "caption-1":
            raise DataError("the two images do not go together")
        return real(self, corpus, source, number, epoch)

    monkeypatch.setattr(Loader, "load", refuse)
    (found,) = {sample for step in _read(run, 0, 1)[1] for sample in step if sample.sample == "caption-1"}
    assert (found.image, found.reason) == (-1, "the two images do not go together")


def test_a_fault_without_images_is_not_hidden(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Loader, corpus: Corpus, source: int, number: int, epoch: int) -> Loaded:
        raise DataError(f"{corpus.sample(number).id} cannot be read")

    monkeypatch.setattr(Loader, "load", refuse)
    with pytest.raises(DataError, match=r"text-.* cannot be read"):
        _read(run, 0, 1)


def test_a_row_that_nothing_can_fill_is_padding(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "bad", [record(0, "caption", ["image-0.png"], words=2)])
    rot(folder, ["caption-0"])
    with stream(run_config(tmp_path, [("bad", 1.0)]), 0, 1) as reading:
        for batch in reading.next_step():
            assert batch.sample_ids == ((), ())
            assert batch.loss_weight.sum() == 0 and len(batch.patches) == 0
        assert (reading.planned, reading.replaced, len(reading.bad)) == (8, 8, 8)
