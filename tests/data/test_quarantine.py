"""What stands in for a bad sample fits into its space; above its limits a run stops, and says all there is to say."""

from pathlib import Path

import pytest

from megatron_nmm.data.corpus import Corpus
from megatron_nmm.data.quarantine import (
    SEARCH,
    SHARE_AFTER,
    BadSample,
    Quarantine,
    describe,
    from_record,
    patch_count,
    stand_ins,
    to_record,
)
from megatron_nmm.errors import DataError
from tests.data.corpora import corpus, mixed_records, record


def _bad(number: int, sample: str = "") -> BadSample:
    return BadSample("data/web", "f" * 64, "shards/00003", number, sample or f"s-{number}", 7, "the image is cut")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """60 samples of all kinds and lengths, the last one longer than SEARCH others together can fill."""
    folder = tmp_path_factory.mktemp("quarantine")
    return Corpus(corpus(folder, "mixed", [*mixed_records(60), record(99, "text", words=300)], 400))


def test_stand_ins_are_the_next_samples_that_fit(opened: Corpus) -> None:
    for number in range(len(opened)):
        bad = opened.sample(number)
        found = stand_ins(opened, number, lambda candidate: candidate)
        samples = [opened.sample(candidate) for candidate in found]
        assert number not in found and len(set(found)) == len(found)
        assert sum(len(sample.tokens) for sample in samples) <= len(bad.tokens)
        assert sum(map(patch_count, samples)) <= patch_count(bad)
        ahead = [(candidate - number) % len(opened) for candidate in found]
        assert ahead == sorted(ahead) and (not ahead or ahead[-1] <= SEARCH)
        # Greedy: what comes first and fits is taken.
        fitting = [
            candidate
            for candidate in ((number + step) % len(opened) for step in range(1, len(opened)))
            if len(opened.sample(candidate).tokens) <= len(bad.tokens)
            and patch_count(opened.sample(candidate)) <= patch_count(bad)
        ]
        assert found[:1] == fitting[:1]
    assert len(stand_ins(opened, 60, lambda candidate: candidate)) > 10


def test_stand_ins_that_are_bad_too_are_passed_over(opened: Corpus) -> None:
    first = stand_ins(opened, 4, lambda candidate: candidate)[0]
    tried: list[int] = []

    def usable(candidate: int) -> int | None:
        tried.append(candidate)
        return None if candidate == first else candidate

    found = stand_ins(opened, 4, usable)
    assert tried[0] == first and first not in found and found
    assert stand_ins(opened, 4, lambda candidate: None) == []


def test_a_sample_counts_once_however_often_it_is_met() -> None:
    quarantine = Quarantine(most=2, share=1.0)
    assert quarantine.add([_bad(1), _bad(2), _bad(1)]) == [_bad(1), _bad(2)]
    assert quarantine.add([_bad(2)]) == []
    quarantine.require_few()
    assert quarantine.add([_bad(3)]) == [_bad(3)]
    with pytest.raises(DataError) as raised:
        quarantine.require_few()
    message = str(raised.value)
    assert "3 samples have images that cannot be decoded" in message
    assert "more than data.max_bad=2 allows" in message
    assert "sample 's-1' (data/web/shards/00003, image 7): the image is cut" in message
    assert "--set data.max_bad=6" in message


def test_a_share_counts_what_was_replaced_once_enough_was_read() -> None:
    quarantine = Quarantine(most=10, share=0.01)
    quarantine.add([_bad(1)])
    quarantine.count(SHARE_AFTER - 1, 50)
    quarantine.require_few()
    quarantine.count(1, 0)
    with pytest.raises(DataError, match=r"50 of 1,000 samples read \(5\.00%\) were replaced.*data\.max_bad_share=0\.1"):
        quarantine.require_few()
    quarantine.count(4_000, 0)
    quarantine.require_few()


def test_a_message_names_the_first_and_counts_the_rest() -> None:
    quarantine = Quarantine(most=0, share=1.0)
    quarantine.add(_bad(number) for number in range(5))
    assert quarantine.excess is not None
    assert quarantine.excess.count("the image is cut") == 3 and "and 2 more in quarantine.jsonl" in quarantine.excess


def test_lines_come_back_as_samples(tmp_path: Path) -> None:
    line = to_record(_bad(5), 12)
    assert line["step"] == 12 and from_record(line) == _bad(5)
    with pytest.raises(DataError, match=r"quarantine\.jsonl has a line without 'reason'"):
        from_record({key: value for key, value in line.items() if key != "reason"})
    assert describe(BadSample("c", "f", "s", 1, "id", -1, "why")) == "sample 'id' (c/s): why"
