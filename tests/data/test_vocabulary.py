"""Learning a vocabulary explains what it refuses and cuts long lines without losing text."""

import re
from pathlib import Path

import pytest

from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.data.vocabulary import SENTENCE_BYTES, learn, sentences
from megatron_nmm.errors import DataError

TEXTS = ["three plus four is seven.", "a handwritten seven.", "zero plus one is one."] * 20


def _learn(vocabulary: int, texts: list[str] = TEXTS, limit: int = 10_000) -> bytes:
    return learn(texts, vocabulary, "bpe", sample_limit=limit, threads=1)


def test_too_large_a_vocabulary_names_the_largest_which_then_works(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="vocabulary 5000 is too large for these texts") as raised:
        _learn(5000)
    found = re.search(r"use --vocabulary (\d+) or less", str(raised.value))
    assert found
    (tmp_path / "t.model").write_bytes(_learn(int(found[1])))
    assert Tokenizer(tmp_path / "t.model").size == int(found[1])


def test_too_small_a_vocabulary_names_the_smallest_which_then_works() -> None:
    with pytest.raises(DataError, match="vocabulary 100 is too small") as raised:
        _learn(100)
    found = re.search(r"use --vocabulary (\d+) or more", str(raised.value))
    assert found
    assert _learn(int(found[1]))


def test_no_text_is_refused() -> None:
    with pytest.raises(DataError, match="there is no text to learn from"):
        _learn(300, [])


def test_a_limited_sample_is_drawn_from_the_whole_stream(tmp_path: Path) -> None:
    texts = ["early early early"] * 2000 + ["later later later"] * 2000
    model = _learn(280, texts, limit=150)
    assert _learn(280, texts, limit=150) == model
    (tmp_path / "t.model").write_bytes(model)
    tokenizer = Tokenizer(tmp_path / "t.model")
    assert len(tokenizer.encode("early")) < 5 and len(tokenizer.encode("later")) < 5


def test_too_small_a_sample_limit_is_refused() -> None:
    with pytest.raises(DataError, match="sample limit 5 is too small to learn from; use --sample-limit 101 or more"):
        _learn(300, limit=5)


def test_words_become_single_tokens(tmp_path: Path) -> None:
    (tmp_path / "t.model").write_bytes(_learn(330))
    tokenizer = Tokenizer(tmp_path / "t.model")
    assert [len(tokenizer.encode(word)) for word in ("seven", "three", "handwritten", "plus")] == [1, 1, 1, 1]


@pytest.mark.parametrize("unit", ["word ", "x", "\u4e2d", "\U0001f600"])
def test_long_lines_are_cut_without_loss(unit: str) -> None:
    line = unit * 5000
    parts = list(sentences([line]))
    assert "".join(parts).strip() == line.strip()
    assert max(len(part.encode()) for part in parts) <= SENTENCE_BYTES
