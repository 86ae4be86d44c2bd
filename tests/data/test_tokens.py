"""The tokenizer keeps text whole, and no text can spell a special token."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers

from megatron_nmm.data.tokens import SPECIAL_PIECES, Tokenizer
from megatron_nmm.errors import DataError
from tests.data.corpora import VOCABULARY, WORDS, model, tokenizer


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
    assert loaded.encode_many([text, "red"])[0].tolist() == ids
    assert loaded.unk not in ids


@pytest.mark.parametrize("piece", SPECIAL_PIECES.values())
def test_text_cannot_spell_a_special_token(tmp_path: Path, piece: str) -> None:
    loaded = tokenizer(tmp_path)
    assert not set(loaded.encode(f"red {piece} green")) & set(loaded.special.values())


def test_missing_tokenizer_names_the_tool(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.model does not exist; train one with tools/train_tokenizer\.py"):
        Tokenizer(tmp_path / "none.model")


@pytest.mark.parametrize("content", [b"", b"no model", model()[:500], b"{}", b'{"model": 7}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.model").write_bytes(content)
    with pytest.raises(DataError, match=r"is not a SentencePiece model|is not a tokenizer\.json that this version"):
        Tokenizer(tmp_path / "t.model")


def _plain(folder: Path, **options: Any) -> Path:
    """A SentencePiece model that knows nothing of images."""
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["red green blue <image> <img>"] * 20),
        model_prefix=str(folder / "plain"),
        vocab_size=40,
        model_type="char",
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return folder / "plain.model"


def test_missing_special_tokens_are_appended_in_order(tmp_path: Path) -> None:
    path = _plain(tmp_path)
    native = sentencepiece.SentencePieceProcessor(str(path)).vocab_size()
    loaded = Tokenizer(path)
    assert (loaded.unk, loaded.bos, loaded.eos) == (0, 1, 2)
    names = ("pad", "image", "begin_of_image", "end_of_image", "end_of_line", "end_of_scale")
    assert [loaded.special[name] for name in names] == list(range(native, native + 6))
    assert loaded.size == native + 6
    assert loaded.piece(loaded.image) == "<image>" and loaded.piece(2) == "</s>"
    assert loaded.decode([*loaded.encode("red"), loaded.image, loaded.eos, *loaded.encode("blue")]) == "red blue"


def test_control_symbols_of_other_families_are_used(tmp_path: Path) -> None:
    loaded = Tokenizer(_plain(tmp_path, control_symbols=["<IMG_CONTEXT>", "<img>", "</img>"]))
    assert [loaded.piece(loaded.special[name]) for name in ("image", "begin_of_image", "end_of_image")] == [
        "<IMG_CONTEXT>",
        "<img>",
        "</img>",
    ]
    assert len(set(loaded.special.values())) == len(SPECIAL_PIECES)


def test_a_piece_that_text_can_spell_is_no_special_token(tmp_path: Path) -> None:
    loaded = Tokenizer(_plain(tmp_path, user_defined_symbols=["<image>"]))
    assert loaded.image >= loaded.size - 6
    assert not set(loaded.encode("red <image> green")) & {loaded.image}


def test_it_pickles_as_its_file(tmp_path: Path) -> None:
    loaded = tokenizer(tmp_path)
    again = pickle.loads(pickle.dumps(loaded))  # noqa: S301
    assert again.sha256 == loaded.sha256 and again.encode("red") == loaded.encode("red")
    frozen = pickle.dumps(loaded)
    loaded.path.write_bytes(model(1))
    with pytest.raises(DataError, match=r"was changed while it was in use; run the command again"):
        pickle.loads(frozen)  # noqa: S301


SPECIALS = ("<s>", "</s>", "<unk>", "<img>", "</img>", "<IMG_CONTEXT>", "<|im_end|>")
"""The last one plays no part here, and still no text may spell it."""


def _hugging_face(folder: Path, vocabulary_spells: bool = False) -> Path:
    """A tokenizer.json of a model that others trained; its Unigram vocabulary may hold the special tokens, too."""
    words = [(f"\u2581{word}", -1.0) for word in WORDS] + [
        (letter, -9.0) for letter in sorted(set("\u2581".join(SPECIALS)))
    ]
    words += [(letter, -9.0) for letter in sorted(set("".join(SPECIAL_PIECES.values())) - set("".join(SPECIALS)))]
    own = [(piece, -0.1) for piece in SPECIALS if vocabulary_spells]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), *words, *own], unk_id=0))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    made.add_special_tokens([tokenizers.AddedToken(piece, special=True) for piece in SPECIALS])
    made.enable_truncation(4)
    made.enable_padding(length=9)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("vocabulary_spells", [False, True])
def test_a_tokenizer_json_folder_serves_as_well(tmp_path: Path, vocabulary_spells: bool) -> None:
    folder = _hugging_face(tmp_path, vocabulary_spells)
    loaded = Tokenizer(folder)
    assert loaded.path == folder / "tokenizer.json"
    assert [loaded.piece(loaded.special[name]) for name in ("bos", "eos", "image", "begin_of_image", "pad")] == [
        "<s>",
        "</s>",
        "<IMG_CONTEXT>",
        "<img>",
        "<pad>",
    ]
    assert loaded.pad == loaded.size - 3
    # Neither cut to 4 tokens nor filled to 9, nothing added.
    text = "red green blue round square small"
    assert loaded.encode(text) == [loaded.encode(word)[0] for word in text.split()]
    assert loaded.decode([loaded.bos, *loaded.encode(text), loaded.image]) == text
    for piece in (*SPECIALS, *SPECIAL_PIECES.values()):
        spelled = loaded.encode_many([f"red {piece} green", piece])
        given = [loaded.piece(token) for ids in spelled for token in ids]
        assert not set(given) & {*SPECIALS, *SPECIAL_PIECES.values()} - {"<unk>"}
        if not vocabulary_spells and piece != "<unk>":
            assert loaded.decode(spelled[1].tolist()) == piece
        assert spelled[0].dtype == np.int32


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds neither tokenizer\.json nor tokenizer\.model; give one that does"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(model())
    assert Tokenizer(tmp_path).size == VOCABULARY
