"""Learns a SentencePiece model from a stream of texts, with the special tokens every corpus needs."""

import io
import re
from collections.abc import Iterable, Iterator
from typing import Literal

import sentencepiece

from megatron_nmm.data.tokens import SPECIAL_PIECES
from megatron_nmm.errors import DataError

SENTENCE_BYTES = 4000
"""Longest piece of text handed to the trainer, which skips longer ones silently."""
SMALLEST_SAMPLE = 101
"""Fewest sentences the trainer accepts as a limit."""

ModelType = Literal["bpe", "unigram"]


def learn(texts: Iterable[str], vocabulary: int, model_type: ModelType, sample_limit: int, threads: int) -> bytes:
    """Bytes of a SentencePiece model with ``vocabulary`` pieces.

    Text is taken as it is (no normalisation, no white space removed), unknown characters fall back to bytes, so
    decoding gives back what was encoded. At most ``sample_limit`` sentences are kept in memory, drawn evenly from the
    whole stream and the same ones in every run. Raises DataError when the texts are too few for the vocabulary, or the
    vocabulary too small for the texts.
    """
    if sample_limit < SMALLEST_SAMPLE:
        raise DataError(
            f"sample limit {sample_limit} is too small to learn from; use --sample-limit {SMALLEST_SAMPLE} or more"
        )
    specials = list(SPECIAL_PIECES.values())
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=sentences(texts),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocabulary,
            input_sentence_size=sample_limit,
            shuffle_input_sentence=True,
            max_sentence_length=SENTENCE_BYTES + 8,
            character_coverage=0.9999,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            pad_piece=specials[0],
            unk_piece=specials[1],
            bos_piece=specials[2],
            eos_piece=specials[3],
            unk_surface="",
            control_symbols=specials[4:],
            num_threads=threads,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explain(error, vocabulary) from error
    return model.getvalue()


def sentences(texts: Iterable[str]) -> Iterator[str]:
    """Each text cut at line ends, and at spaces where a line is longer than the trainer accepts."""
    for text in texts:
        for line in text.splitlines():
            while len(line.encode()) > SENTENCE_BYTES:
                # A quarter of the byte limit in characters is safe for any script (4 bytes at most each).
                cut = line.rfind(" ", 1, SENTENCE_BYTES // 4)
                cut = cut if cut > 0 else SENTENCE_BYTES // 4
                yield line[:cut]
                line = line[cut:]
            if line.strip():
                yield line


def _explain(error: RuntimeError, vocabulary: int) -> DataError:
    """The trainer's refusal as fact, value and remedy."""
    message = str(error)
    if found := re.search(r"Please set it to a value <= (\d+)", message):
        return DataError(
            f"vocabulary {vocabulary} is too large for these texts; the largest possible is {found[1]}: "
            f"use --vocabulary {found[1]} or less, or add text"
        )
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return DataError(
            f"vocabulary {vocabulary} is too small: special tokens, 256 byte tokens and the characters of these texts "
            f"need {found[1]}; use --vocabulary {found[1]} or more"
        )
    if "sentences_.empty()" in message or "Input corpus is empty" in message:
        return DataError("there is no text to learn from; give inputs with text records")
    return DataError(f"the tokenizer cannot be trained: {message}")
