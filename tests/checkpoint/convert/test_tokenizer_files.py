"""A SentencePiece tokenizer as tokenizer.json: the same ids for any text, the same special tokens, the text again."""

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_nmm.checkpoint.convert.tokenizer_files import OWN, rebuilt, tokenizer_files
from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.data.vocabulary import ModelType, learn
from megatron_nmm.errors import DataError
from tests.data.corpora import WORDS

KINDS: tuple[ModelType, ...] = ("bpe", "unigram")
ALPHABET = st.characters(codec="utf-8", exclude_characters="\x00")


@cache
def _model(kind: ModelType) -> bytes:
    texts = [" ".join(WORDS[number % len(WORDS) :]) + f" {number}" for number in range(400)]
    return learn(texts, 299, kind, sample_limit=1000, threads=1)


def _tokenizer(kind: ModelType, folder: Path) -> Tokenizer:
    (folder / f"{kind}.model").write_bytes(_model(kind))
    return Tokenizer(folder / f"{kind}.model")


@pytest.mark.parametrize("kind", KINDS)
def test_any_text_is_cut_alike(kind: ModelType, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp(kind)
    tokenizer = _tokenizer(kind, folder)
    tokenizer_files(folder, tokenizer)
    assert (folder / OWN).read_bytes() == _model(kind)
    again = Tokenizer(folder / "tokenizer.json")
    assert again.special == tokenizer.special and again.size == tokenizer.size

    @settings(max_examples=200, deadline=None)
    @given(st.one_of(st.text(ALPHABET), st.lists(st.sampled_from((*WORDS, " ", "  ", "12", "<s>"))).map("".join)))
    def same(text: str) -> None:
        ids = tokenizer.encode(text)
        assert again.encode(text) == ids
        assert again.decode(ids) == tokenizer.decode(ids)

    same()


def test_what_cannot_be_rebuilt_is_refused(tmp_path: Path) -> None:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([" ".join(WORDS)] * 200),
        model_prefix=str(tmp_path / "folded"),
        vocab_size=60,
        model_type="bpe",
        normalization_rule_name="nmt_nfkc_cf",
        minloglevel=2,
    )
    with pytest.raises(DataError, match="cuts text in a way that a tokenizer"):
        rebuilt(Tokenizer(tmp_path / "folded.model"))
