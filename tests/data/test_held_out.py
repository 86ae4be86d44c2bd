"""Validation batches: the same packs every time and for any number of ranks, opened and decoded once."""

from dataclasses import replace

import pytest

from megatron_nmm.config.schema import RunConfig, SourceConfig
from megatron_nmm.data.batch import Batch
from megatron_nmm.data.corpus import Corpus
from megatron_nmm.data.decoders.pillow import PillowDecoder
from megatron_nmm.data.held_out import HeldOut, size_in_bytes
from megatron_nmm.data.load import image_patches
from tests.data.corpora import RULE, mixed_and_text, mixed_records, png, run_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Two held-out corpora: text (8 samples), mixed (40)."""
    folder = mixed_and_text(tmp_path_factory.mktemp("held_out"), mixed_records(40), text=8)
    run = run_config(folder, [("mixed", 1.0)], noise=0.5, augment=True)
    sources = (SourceConfig(str(folder / "text")), SourceConfig(str(folder / "mixed")))
    return replace(run, evaluate=replace(run.evaluate, sources=sources))


def _batches(held_out: HeldOut, source: int) -> list[Batch]:
    return [microbatch.batch for microbatch in held_out.batches(source)]


def _ids(batches: list[Batch]) -> list[tuple[str, ...]]:
    return [row for batch in batches for row in batch.sample_ids]


def test_batches_are_plain_equal_in_number_and_padded(run: RunConfig) -> None:
    held_out = HeldOut(run, 0, 1)
    assert held_out.source_names == ("text", "mixed")
    whole = _batches(held_out, 1)
    ids = [row for row in _ids(whole) if row]
    assert len(ids) == run.evaluate.packs == 5
    assert [len(batch.tokens) for batch in whole] == [2, 2, 2]
    assert _ids(whole)[-1] == () and whole[-1].loss_weight[1].sum() == 0
    plain = {image_patches(png(seed), RULE, PillowDecoder())[0][0].tobytes() for seed in range(5)}
    for batch in whole:
        assert set(batch.source[batch.tokens != 0].tolist()) == {1}
        assert {image.tobytes() for image in batch.patches.numpy().reshape(-1, 4, 48)} <= plain
    ranks = [_batches(HeldOut(run, rank, 4), 1) for rank in range(4)]
    assert {len(batches) for batches in ranks} == {1}
    assert [row for batches in ranks for row in _ids(batches) if row] == ids
    assert sum(float(b.loss_weight.sum()) for batches in ranks for b in batches) == sum(
        float(b.loss_weight.sum()) for b in whole
    )


def test_small_sources_are_read_once_and_large_ones_again(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [sum(map(size_in_bytes, _batches(HeldOut(run, 0, 1), source))) for source in (0, 1)]
    reads: list[int] = []
    real = Corpus.sample

    def counted(self: Corpus, number: int) -> object:
        reads.append(number)
        return real(self, number)

    monkeypatch.setattr(Corpus, "sample", counted)
    held_out = HeldOut(run, 0, 1, kept_bytes=sizes[0] + sizes[1] - 1)
    first = [_ids(_batches(held_out, source)) for source in (0, 1)]
    reads.clear()
    assert _ids(_batches(held_out, 0)) == first[0] and reads == []
    assert _ids(_batches(held_out, 1)) == first[1] and reads != []


def test_size_of_a_batch_is_that_of_its_tensors(run: RunConfig) -> None:
    batch = _batches(HeldOut(run, 0, 1), 0)[0]
    assert size_in_bytes(batch) >= batch.tokens.nbytes + batch.labels.nbytes
    assert size_in_bytes(batch) < 20 * batch.tokens.nbytes
