"""The tokenizer: text to ids and back for SentencePiece models and tokenizer.json files, with one set of special ones.

A special token that the vocabulary has under any of :data:`SPELLINGS` is used as it is; the others are appended after
the vocabulary in the order of :data:`SPECIAL_PIECES`. No text can spell a special token, whatever the tokenizer does.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_nmm.data.engines import Engine, open_engine
from megatron_nmm.errors import DataError

Ids = npt.NDArray[np.int32]
"""[tokens]"""

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
"""Name in the code -> piece in the models trained here, in id order; control symbols, which no text can spell."""

SPELLINGS: dict[str, tuple[str, ...]] = {
    "pad": ("[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>", "<PAD>"),
    "unk": ("[UNK]", "<|unk|>", "<UNK>"),
    "bos": (
        "<bos>",
        "<|begin_of_text|>",
        "<|startoftext|>",
        "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
        "<BOS_TOKEN>",
    ),
    "eos": ("<eos>", "<|end_of_text|>", "<|endoftext|>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<EOS_TOKEN>"),
    "image": ("<IMG_CONTEXT>", "<|image_pad|>", "<image_soft_token>", "<|image|>", "[IMG]"),
    "begin_of_image": ("<img>", "<|vision_start|>", "<start_of_image>"),
    "end_of_image": ("</img>", "<|vision_end|>", "[IMG_END]"),
    "end_of_line": ("[IMG_BREAK]",),
    "end_of_scale": (),
}
"""Name -> what other families of models call that token: InternVL and NaViL, Qwen, Llama, Gemma, DeepSeek, Pixtral."""


class Tokenizer:
    """Text to token ids and back, for one model file. Safe to use from several threads; pickles as its path."""

    def __init__(self, path: str | Path) -> None:
        """Open a SentencePiece model, a tokenizer.json, or a folder that holds tokenizer.json or tokenizer.model.

        Raises DataError when it is missing or neither.
        """
        self.path = _file(Path(path))
        content = self.path.read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._engine: Engine = open_engine(self.path, content)
        self.special, self._appended = _special(self._engine)
        """Name of :data:`SPECIAL_PIECES` -> token id."""
        self.stored: int = self._engine.size
        """Ids that the file itself has, special tokens that were appended aside."""
        self.size: int = self._engine.size + len(self._appended)
        """Token ids are 0 to ``size`` - 1."""
        self.pad = self.special["pad"]
        self.unk = self.special["unk"]
        self.bos = self.special["bos"]
        self.eos = self.special["eos"]
        self.image = self.special["image"]
        self.begin_of_image = self.special["begin_of_image"]
        self.end_of_image = self.special["end_of_image"]
        self.end_of_line = self.special["end_of_line"]
        self.end_of_scale = self.special["end_of_scale"]
        self._forbidden = np.array([number for number in self._engine.spellable if number != self.unk], np.int32)

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (str(self.path), self.sha256)

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, without special tokens."""
        ids: list[int] = self.encode_many([text])[0].tolist()
        return ids

    def encode_many(self, texts: Sequence[str], threads: int = 1) -> list[Ids]:
        """``encode`` of each text as read-only arrays; one call for many short texts costs much less."""
        encoded = self._engine.encode(list(texts), threads)
        if not self._forbidden.size:
            return encoded
        return [
            self._harmless(text) if np.isin(ids, self._forbidden).any() else ids
            for text, ids in zip(texts, encoded, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens give nothing."""
        skipped = set(self.special.values())
        return self._engine.decode([int(token) for token in ids if int(token) not in skipped])

    def piece(self, token: int) -> str:
        """Spelling of one token id."""
        name = self._appended.get(token)
        return self._engine.piece(token) if name is None else SPECIAL_PIECES[name]

    def _harmless(self, text: str) -> Ids:
        """The ids of a text that spells special tokens, cut in the middle of each so that none of them comes out."""
        (ids,) = self._engine.encode([text], 1)
        if not np.isin(ids, self._forbidden).any():
            return ids
        if len(text) == 1:
            return np.array([self.unk], np.int32)
        middle = len(text) // 2
        return np.concatenate([self._harmless(text[:middle]), self._harmless(text[middle:])])


def _file(path: Path) -> Path:
    """The file of a tokenizer given as file or folder."""
    if path.is_dir():
        for name in ("tokenizer.json", "tokenizer.model"):
            if (path / name).is_file():
                return path / name
        raise DataError(f"tokenizer folder {path} holds neither tokenizer.json nor tokenizer.model; give one that does")
    if not path.is_file():
        raise DataError(f"tokenizer {path} does not exist; train one with tools/train_tokenizer.py")
    return path


def _special(engine: Engine) -> tuple[dict[str, int], dict[int, str]]:
    """(name -> id of every special token, id -> name of those that had to be appended)."""
    special: dict[str, int] = {}
    appended: dict[int, str] = {}
    for name, piece in SPECIAL_PIECES.items():
        found = (engine.control(spelling) for spelling in (piece, *SPELLINGS[name]))
        # No two names share a token: text tokens between them would have two meanings.
        number = next((number for number in found if number is not None and number not in special.values()), None)
        if number is None:
            number = engine.size + len(appended)
            appended[number] = name
        special[name] = number
    return special, appended


def _reopen(path: str, sha256: str) -> Tokenizer:
    """The same tokenizer in another process; raises DataError when its file is another one by now."""
    tokenizer = Tokenizer(path)
    if tokenizer.sha256 != sha256:
        raise DataError(f"tokenizer {path} was changed while it was in use; run the command again")
    return tokenizer
