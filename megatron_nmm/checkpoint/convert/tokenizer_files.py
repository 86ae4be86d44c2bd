"""The tokenizer of a run beside its exported weights: its own file, and a tokenizer.json where it is another format.

A SentencePiece model is rebuilt for the ``tokenizers`` library from its pieces and scores, and used only if it cuts
texts of every kind as the original does.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from megatron_nmm.data.tokens import Tokenizer
from megatron_nmm.errors import DataError
from megatron_nmm.files import durable

OWN, FAST = "tokenizer.model", "tokenizer.json"
SPACE = "\u2581"
"""What SentencePiece writes for a space."""
TEXTS = (
    "The quick brown fox jumps over 13 lazy dogs, twice (2 x)!",
    "  two spaces before,  two between, one after ",
    "lines\n\nand\ttabs, \u2581 itself",
    "\u00e9l\u00e8ve \u4e2d\u6587\u5b57 \u0645\u0631\u062d\u0628\u0627 \U0001f600\U0001f3fd \u00b5",
    "def f(x): return x**2  # <image> </s> <unk>",
    " ",
    "a",
)
"""Texts on which the two must agree."""


def tokenizer_files(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the tokenizer's files into ``folder``; DataError for a SentencePiece model that cannot be rebuilt."""
    content = tokenizer.path.read_bytes()
    if tokenizer.path.suffix == ".json":
        durable.write(folder / FAST, content)
        return
    durable.write(folder / OWN, content)
    durable.write(folder / FAST, rebuilt(tokenizer).to_str().encode())


def rebuilt(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The SentencePiece model of ``tokenizer`` for ``tokenizers``. Raises DataError when no way of cutting agrees."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    for model in (_bpe, _unigram):
        made = _assembled(pieces, model)
        if all(made.encode(text, add_special_tokens=False).ids == tokenizer.encode(text) for text in TEXTS):
            return made
    raise DataError(
        f"tokenizer {tokenizer.path} cuts text in a way that a tokenizer.json cannot express (normalisation, or user "
        "defined pieces); train one with tools/train_tokenizer.py, or give a tokenizer.json"
    )


def _assembled(pieces: object, model: Callable[[object], models.Model]) -> tokenizers.Tokenizer:
    """Spaces become pieces, one stands before every text, and control symbols cannot be spelled."""
    made = tokenizers.Tokenizer(model(pieces))
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    made.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    control = [piece for number, (piece, _) in enumerate(_scored(pieces)) if _is_control(pieces, number)]
    made.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in control])
    made.encode_special_tokens = True
    return made


def _scored(pieces: object) -> Iterator[tuple[str, float]]:
    for number in range(pieces.GetPieceSize()):  # type: ignore[attr-defined]
        yield pieces.IdToPiece(number), pieces.GetScore(number)  # type: ignore[attr-defined]


def _is_control(pieces: object, number: int) -> bool:
    return bool(pieces.IsControl(number) or pieces.IsUnknown(number))  # type: ignore[attr-defined]


def _bpe(pieces: object) -> models.Model:
    """Pairs of pieces that make a piece, best score first; among the pairs of one piece, the earliest pieces."""
    scores = dict(_scored(pieces))
    numbers = {piece: number for number, piece in enumerate(scores)}
    merges = [
        (-score, numbers[piece[:cut]], numbers[piece[cut:]], piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in numbers and piece[cut:] in numbers
    ]
    pairs = [(left, right) for *_, left, right in sorted(merges)]
    unknown = pieces.IdToPiece(pieces.unk_id())  # type: ignore[attr-defined]
    return models.BPE(numbers, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True)


def _unigram(pieces: object) -> models.Model:
    return models.Unigram(list(_scored(pieces)), pieces.unk_id(), True)  # type: ignore[attr-defined]
