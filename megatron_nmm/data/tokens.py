"""The tokenizer: a SentencePiece model with fixed special tokens for padding, document ends and images."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from megatron_nmm.errors import DataError

SPECIAL_PIECES: dict[str, str] = {
    "pad": "<pad>",
    "unk": "<unk>",
    "bos": "<s>",
    "eos": "</s>",
    "image": "<image>",
    "begin_of_image": "<begin_of_image>",
    "end_of_image": "<end_of_image>",
    "end_of_line": "<end_of_line>",
    "end_of_scale": "<end_of_scale>",
}
"""Name in the code -> piece in the model, in id order. They are control symbols: no text can spell them."""


class Tokenizer:
    """Text to token ids and back, for one model file. Safe to use from several threads."""

    def __init__(self, path: str | Path) -> None:
        """Load ``path``; raise DataError when it is missing, not a SentencePiece model or lacks a special piece."""
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"tokenizer {self.path} does not exist; train one with tools/train_tokenizer.py")
        model = self.path.read_bytes()
        self.sha256 = hashlib.sha256(model).hexdigest()
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except (RuntimeError, ValueError, OSError) as error:
            raise DataError(
                f"tokenizer {self.path} is not a SentencePiece model; train one with tools/train_tokenizer.py"
            ) from error
        self.size: int = self._processor.GetPieceSize()
        self.special = {name: self._special(piece) for name, piece in SPECIAL_PIECES.items()}
        """Name of :data:`SPECIAL_PIECES` -> token id."""
        self.pad = self.special["pad"]
        self.unk = self.special["unk"]
        self.bos = self.special["bos"]
        self.eos = self.special["eos"]
        self.image = self.special["image"]
        self.begin_of_image = self.special["begin_of_image"]
        self.end_of_image = self.special["end_of_image"]
        self.end_of_line = self.special["end_of_line"]
        self.end_of_scale = self.special["end_of_scale"]

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, without special tokens."""
        ids: list[int] = self._processor.EncodeAsIds(text)
        return ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` of each text; one call for many short texts costs much less."""
        ids: list[list[int]] = self._processor.Encode(list(texts), out_type=int, num_threads=1)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens give nothing."""
        text: str = self._processor.DecodeIds([int(token) for token in ids])
        return text

    def piece(self, token: int) -> str:
        """Spelling of one token id."""
        piece: str = self._processor.IdToPiece(token)
        return piece

    def _special(self, piece: str) -> int:
        number: int = self._processor.PieceToId(piece)
        if self._processor.IdToPiece(number) != piece:
            raise DataError(
                f"tokenizer {self.path} has no piece {piece}; train one that has with tools/train_tokenizer.py"
            )
        return number
