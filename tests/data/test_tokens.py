"""The tokenizer keeps text whole, and no text can spell a special token."""

from pathlib import Path

import pytest
import sentencepiece

from megatron_nmm.data.tokens import SPECIAL_PIECES, Tokenizer
from megatron_nmm.errors import DataError
from tests.data.corpora import VOCABULARY, model, tokenizer


def test_special_ids_are_fixed(tmp_path: Path) -> None:
    loaded = tokenizer(tmp_path)
    assert loaded.special == {name: number for number, name in enumerate(SPECIAL_PIECES)}
    assert (loaded.pad, loaded.eos, loaded.image, loaded.end_of_scale) == (0, 3, 4, 8)
    assert loaded.size == VOCABULARY


@pytest.mark.parametrize(
    "text", ["red plus green is a thing.", "  two  spaces ", "new\nline\ttab", "\u00e9\u4e2d\U0001f600", "ﬁ Å ²"]
)
def test_text_survives(tmp_path: Path, text: str) -> None:
    loaded = tokenizer(tmp_path)
    ids = loaded.encode(text)
    assert loaded.decode(ids) == text
    assert loaded.encode_many([text, "red"])[0] == ids
    assert loaded.unk not in ids


@pytest.mark.parametrize("piece", SPECIAL_PIECES.values())
def test_text_cannot_spell_a_special_token(tmp_path: Path, piece: str) -> None:
    loaded = tokenizer(tmp_path)
    assert not set(loaded.encode(f"red {piece} green")) & set(loaded.special.values())


def test_missing_tokenizer_names_the_tool(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.model does not exist; train one with tools/train_tokenizer\.py"):
        Tokenizer(tmp_path / "none.model")


@pytest.mark.parametrize("content", [b"", b"no model", model()[:500]])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.model").write_bytes(content)
    with pytest.raises(DataError, match=r"is not a SentencePiece model|has no piece"):
        Tokenizer(tmp_path / "t.model")


def test_a_model_without_image_tokens_is_refused(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["red green blue"] * 20),
        model_prefix=str(tmp_path / "plain"),
        vocab_size=16,
        model_type="char",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(DataError, match=r"has no piece <pad>; train one that has"):
        Tokenizer(tmp_path / "plain.model")
