"""A tokenizer.json made of a SentencePiece model gives its ids for every text, or is refused."""

import itertools
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_nmm.data.tokenizer_json import tokenizer_json
from megatron_nmm.data.tokens import SPECIAL_PIECES, Tokenizer
from megatron_nmm.data.vocabulary import learn
from megatron_nmm.errors import DataError
from tests.data.corpora import WORDS, tokenizer

TEXTS = [" ".join(words) for words in itertools.permutations(WORDS, 3)] + ["a = {b: [1, 23]}\n\treturn 4567"] * 9


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Tokenizer]:
    """A model trained here and what became of it."""
    folder = tmp_path_factory.mktemp("tokenizers")
    (folder / "tokenizer.model").write_bytes(learn(TEXTS, 380, "bpe", 10_000, 1))
    (folder / "tokenizer.json").write_bytes(tokenizer_json(folder / "tokenizer.model"))
    return Tokenizer(folder / "tokenizer.model"), Tokenizer(folder / "tokenizer.json")


@settings(deadline=None)
@given(
    st.one_of(
        st.text(), st.text(st.sampled_from("abdegr <>\n0123\u2581")), st.lists(st.sampled_from(WORDS)).map(" ".join)
    )
)
def test_any_text_gives_the_same_ids_and_comes_back(both: tuple[Tokenizer, Tokenizer], text: str) -> None:
    ours, made = both
    assert made.encode(text) == ours.encode(text)
    assert made.decode(ours.encode(text)) == ours.decode(ours.encode(text))


def test_special_tokens_keep_their_ids(both: tuple[Tokenizer, Tokenizer]) -> None:
    ours, made = both
    assert made.special == ours.special and made.size == ours.size
    assert [made.piece(number) for number in made.special.values()] == list(SPECIAL_PIECES.values())


def test_a_tokenizer_json_stays_as_it_is(both: tuple[Tokenizer, Tokenizer]) -> None:
    _, made = both
    assert tokenizer_json(made.path) == made.path.read_bytes()


def test_a_unigram_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(learn(TEXTS, 305, "unigram", 10_000, 1))
    with pytest.raises(DataError, match=r"is a unigram model, which no tokenizer\.json reproduces; train one with"):
        tokenizer_json(tmp_path / "tokenizer.model")


def test_a_model_that_changes_text_first_is_refused(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    with pytest.raises(DataError, match=r"cuts '  two  spaces ' otherwise than a tokenizer\.json of its pieces would"):
        tokenizer_json(tmp_path / "tokenizer.model")


def test_the_tests_own_tokenizer_translates(tmp_path: Path) -> None:
    assert tokenizer_json(tokenizer(tmp_path).path).startswith(b"{")
