"""The two libraries behind a tokenizer, SentencePiece and Hugging Face tokenizers, as one protocol."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from megatron_nmm.errors import DataError


class Engine(Protocol):
    """A vocabulary with its way of cutting text."""

    size: int
    """Ids are 0 to ``size`` - 1."""
    spellable: Sequence[int]
    """Control symbols that plain text could give."""

    def encode(self, texts: list[str], threads: int) -> list[npt.NDArray[np.int32]]:
        """Ids of each text, [tokens], nothing added."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Text of ids; control symbols give nothing."""
        ...

    def piece(self, token: int) -> str:
        """Spelling of one id."""
        ...

    def control(self, piece: str) -> int | None:
        """The id of a control symbol with this spelling, None when there is none."""
        ...


def open_engine(path: Path, content: bytes) -> Engine:
    """The engine of a file; a JSON object is a tokenizer.json, everything else should be a SentencePiece model."""
    if path.suffix == ".json" or content.lstrip()[:1] == b"{":
        return HuggingFace(path, content)
    return SentencePiece(path, content)


class SentencePiece:
    """A SentencePiece model; it leaves control symbols out when it cuts text, so none of them is spellable."""

    spellable: Sequence[int] = ()

    def __init__(self, path: Path, content: bytes) -> None:
        import sentencepiece

        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(content)
        except (RuntimeError, ValueError, OSError) as error:
            raise DataError(
                f"tokenizer {path} is not a SentencePiece model or a tokenizer.json; "
                "train one with tools/train_tokenizer.py"
            ) from error
        self.size: int = self._processor.GetPieceSize()

    def encode(self, texts: list[str], threads: int) -> list[npt.NDArray[np.int32]]:
        """Ids of each text, straight from the library's buffers: no Python object per token."""
        ids: list[npt.NDArray[np.int32]] = self._processor.Encode(texts, return_type="numpy", num_threads=threads)
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of ids."""
        text: str = self._processor.DecodeIds(ids)
        return text

    def piece(self, token: int) -> str:
        """Spelling of one id."""
        piece: str = self._processor.IdToPiece(token)
        return piece

    def control(self, piece: str) -> int | None:
        """The id of a control symbol or of the unknown piece; pieces that text can spell are none."""
        number: int = self._processor.PieceToId(piece)
        if self._processor.IdToPiece(number) != piece:
            return None
        return number if self._processor.IsControl(number) or self._processor.IsUnknown(number) else None


class HuggingFace:
    """A tokenizer.json."""

    def __init__(self, path: Path, content: bytes) -> None:
        from tokenizers import Tokenizer

        try:
            added = json.loads(content).get("added_tokens") or []
            self._tokenizer = Tokenizer.from_str(content.decode("utf-8"))
            self._control = {str(token["content"]): int(token["id"]) for token in added if token.get("special")}
        except Exception as error:  # the library raises bare Exception
            raise DataError(
                f"tokenizer {path} is not a tokenizer.json that this version of `tokenizers` reads: {error}; "
                "give another or update the library"
            ) from error
        # A file may ask to cut or fill every text; and what looks like a special token in a text is text.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        # Even so one that stands in the model's own vocabulary, too, can come out of plain text.
        self.spellable: Sequence[int] = tuple(self._control.values())
        # Ids may have holes; the highest one counts.
        self.size: int = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, texts: list[str], threads: int) -> list[npt.NDArray[np.int32]]:
        """Ids of each text; the library itself decides how many threads it uses when they are more than one."""
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encoded]

    def decode(self, ids: list[int]) -> str:
        """Text of ids."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def piece(self, token: int) -> str:
        """Spelling of one id; empty for an id that the vocabulary leaves out."""
        piece: str | None = self._tokenizer.id_to_token(token)
        return piece or ""

    def control(self, piece: str) -> int | None:
        """The id of a special added token."""
        return self._control.get(piece)
