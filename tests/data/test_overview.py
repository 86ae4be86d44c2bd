"""An overview counts what the corpus holds, and groups what was rejected by its reason."""

from collections import Counter
from pathlib import Path

import pytest

from megatron_nmm.data.corpus import Corpus
from megatron_nmm.data.overview import EXAMPLES, Overview, overview, quantile, reason_key
from megatron_nmm.data.overview_plot import overview_plot
from megatron_nmm.data.raw.record import KINDS
from megatron_nmm.errors import DataError
from tests.data.corpora import corpus, mixed_records, record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 samples, and five records that are rejected for one reason, one for another."""
    path = tmp_path_factory.mktemp("overview")
    missing = [record(100 + n, "caption", [f"missing-{n}.png"]) for n in range(5)]
    uneven = record(200, "interleaved", ["image-0.png"]) | {"text": "<image> and <image>"}
    return corpus(path, "mixed", [*mixed_records(30), *missing, uneven])


def test_counts_are_those_of_the_samples(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    found = overview(folder, lambda done, total: told.append((done, total)))
    assert told[-1] == (30, 30)
    opened = Corpus(folder)
    samples = [opened.sample(number) for number in range(len(opened))]
    for index, name in enumerate(KINDS):
        own = [sample for sample in samples if sample.kind == index]
        kind = found.kinds[name]
        assert kind.samples == len(own) == 10
        assert kind.tokens == sum(len(sample.tokens) for sample in own)
        assert kind.images == sum(len(sample.images) for sample in own)
        assert kind.lengths == Counter(len(sample.tokens) for sample in own)
    assert sum(kind.supervised_tokens for kind in found.kinds.values()) == found.info["counts"]["supervised_tokens"]
    assert found.grids == {(2, 2): 30} and found.sizes == {(8, 8): 30}
    assert sum(found.lengths.values()) == 30


def test_reasons_are_grouped_with_examples(folder: Path) -> None:
    found = overview(folder, lambda done, total: None)
    reasons = list(found.reasons.values())
    assert [reason.records for reason in reasons] == [5, 1]
    assert len(reasons[0].examples) == EXAMPLES
    assert [name for name, _, _ in reasons[0].examples] == ["caption-100", "caption-101", "caption-102"]
    assert "missing-0.png" in reasons[0].examples[0][2]
    assert all("missing" not in key for key in found.reasons)


def test_reason_key_leaves_out_what_differs() -> None:
    assert reason_key("image 'a b.png' has 3 x 1,024 pixels") == reason_key("image 'c.png' has 70 x 9 pixels")
    assert reason_key("no text") != reason_key("no image")


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 2), (0.99, 9), (1.0, 9)])
def test_quantile(share: float, value: int) -> None:
    assert quantile(Counter({9: 1, 1: 4, 2: 5}), share) == value
    assert quantile(Counter(), share) == 0


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "c", mixed_records(6))
    table = next(folder.rglob("samples.parquet"))
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"samples\.parquet cannot be read"):
        overview(folder, lambda done, total: None)


def test_the_picture_is_drawn_for_any_corpus(folder: Path, tmp_path: Path) -> None:
    text = overview(
        corpus(tmp_path, "text", [record(n, "text", words=1 + n * n) for n in range(20)], 512), lambda *_: None
    )
    empty = Overview({**text.info, "counts": {}}, {})
    sizes = set()
    for number, found in enumerate((overview(folder, lambda done, total: None), text, empty)):
        overview_plot(found, tmp_path / f"{number}.png")
        sizes.add((tmp_path / f"{number}.png").stat().st_size)
    assert len(sizes) == 3 and min(sizes) > 5_000
    with pytest.raises(DataError, match="failed: No such file or directory"):
        overview_plot(text, tmp_path / "none" / "x.png")
