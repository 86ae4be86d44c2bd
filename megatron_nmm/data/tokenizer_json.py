"""A tokenizer as a tokenizer.json, which readers without SentencePiece open: the same ids for every text, or none.

SentencePiece's byte-pair models translate exactly: their merges are the pairs of pieces that make a piece, in the order
of its score. Unigram models do not: where two ways to cut a text are equally likely, the libraries part.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import DataError

SPACE = "\u2581"
"""What SentencePiece writes for a space."""
PROBES = 2000
"""Random strings of pieces that must give the same ids on both sides."""
TEXTS = (
    "  two  spaces ",
    "new\nline\ttab\r\n",
    "\u00e9 e\u0301 \u4e2d\u6587 \U0001f600",
    "\ufb01 \u00c5 \u00b2 \uff21\u3000b",
    "<s> <image> <0x41> \u2581",
    "a\x00b",
)
"""Texts on which normalisation would show."""


def tokenizer_json(path: Path) -> bytes:
    """The content of a tokenizer.json for the tokenizer in file ``path``; special tokens that training appends are not
    in it, as they are not in ``path``.

    Raises DataError for a SentencePiece model that no tokenizer.json reproduces.
    """
    tokenizer = Tokenizer(path)
    if tokenizer.path.suffix == ".json":
        return tokenizer.path.read_bytes()
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    pieces = [processor.IdToPiece(number) for number in range(processor.GetPieceSize())]
    scores = [processor.GetScore(number) for number in range(len(pieces))]
    plain = [not (processor.IsControl(n) or processor.IsUnknown(n) or processor.IsByte(n)) for n in range(len(pieces))]
    if any(score != int(score) for score in scores):
        raise DataError(
            f"tokenizer {tokenizer.path} is a unigram model, which no tokenizer.json reproduces; train one with "
            "tools/train_tokenizer.py --type bpe, or export without a tokenizer"
        )
    made = _byte_pairs(pieces, scores, plain, pieces[processor.unk_id()])
    control = [number for number in range(len(pieces)) if processor.IsControl(number) or processor.IsUnknown(number)]
    _add_special(made, [pieces[number] for number in control])
    _require_same(tokenizer.path, processor, made, [piece for piece, spelt in zip(pieces, plain, strict=True) if spelt])
    content: bytes = made.to_str(pretty=True).encode()
    return content


def _byte_pairs(pieces: Sequence[str], scores: Sequence[float], plain: Sequence[bool], unknown: str) -> Any:
    """The model: text with a space before it, spaces as SPACE, cut by merges, unknown characters into bytes."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, normalizers

    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = _merges(vocabulary, scores, plain)
    made = Library(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    spaces = decoders.Replace(SPACE, " ")
    made.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return made


def _merges(vocabulary: dict[str, int], scores: Sequence[float], plain: Sequence[bool]) -> list[tuple[str, str]]:
    """All pairs of plain pieces that make one, best score first, then in order of ids."""
    found = []
    for piece, number in vocabulary.items():
        for cut in range(1, len(piece) if plain[number] else 0):
            left, right = vocabulary.get(piece[:cut]), vocabulary.get(piece[cut:])
            if left is not None and right is not None and plain[left] and plain[right]:
                found.append((-scores[number], number, left, right, piece[:cut], piece[cut:]))
    return [(left, right) for *_, left, right in sorted(found)]


def _add_special(made: Any, pieces: Sequence[str]) -> None:
    """Mark control symbols, so that readers know them and leave them out of text."""
    from tokenizers import AddedToken

    made.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in pieces])


def _require_same(path: Path, processor: Any, made: Any, pieces: Sequence[str]) -> None:
    """DataError unless both cut all probes alike."""
    made.encode_special_tokens = True
    for text in _probes(pieces):
        if processor.EncodeAsIds(text) != made.encode(text, add_special_tokens=False).ids:
            raise DataError(
                f"tokenizer {path} cuts {text!r} otherwise than a tokenizer.json of its pieces would; export without a "
                "tokenizer, or train one with tools/train_tokenizer.py"
            )
    made.encode_special_tokens = False


def _probes(pieces: Sequence[str]) -> Iterator[str]:
    """TEXTS, every piece, and pieces in random order; no text is empty."""
    yield from TEXTS
    spelt = [piece.replace(SPACE, " ") for piece in pieces]
    yield from spelt
    drawn = random.Random(1)
    for _ in range(PROBES):
        yield "".join(drawn.choices(spelt, k=drawn.randint(2, 30)))
