"""An answer as it grows, token by token: what of its text is settled, and when it is over."""

from collections.abc import Callable, Sequence

from megatron_nmm.generate.contract import Answer, Decoding, Ended

UNFINISHED = "\ufffd"
"""What decoders put for bytes that are no letter yet."""


class Growing:
    """One answer. ``hear`` gets every piece of its text once it cannot change any more."""

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        eos: int,
        decoding: Decoding,
        hear: Callable[[str], None] | None = None,
    ) -> None:
        self._decode, self._eos, self._decoding, self._hear = decode, eos, decoding, hear
        self._tokens: list[int] = []
        self._told = ""
        self.ended: Ended | None = None

    def add(self, token: int) -> None:
        """The next token; what comes after the end is not looked at."""
        if self.ended is not None:
            return
        if token == self._eos:
            self._end("eos")
            return
        self._tokens.append(token)
        # The text is made anew, because a token may change how those before it are spelled; most answers are short.
        if self._decoding.stop and self._first_stop(self._decode(self._tokens)) is not None:
            self._end("stop")
        elif len(self._tokens) == self._decoding.new_tokens:
            self._end("length")
        elif self._hear is not None:
            text = self._decode(self._tokens)
            self._tell(text[: settled(text, self._decoding.stop)])

    def answer(self) -> Answer:
        """The answer, once it is over."""
        assert self.ended is not None, "the answer still grows"
        text = self._decode(self._tokens)
        return Answer(text[: self._first_stop(text)], tuple(self._tokens), self.ended)

    def _end(self, why: Ended) -> None:
        self.ended = why
        if self._hear is not None:
            self._tell(self.answer().text)

    def _tell(self, text: str) -> None:
        if self._hear is not None and len(text) > len(self._told) and text.startswith(self._told):
            self._hear(text[len(self._told) :])
            self._told = text

    def _first_stop(self, text: str) -> int | None:
        """Where the first of the stop strings begins; None without one."""
        found = [place for place in map(text.find, self._decoding.stop) if place >= 0]
        return min(found, default=None)


def settled(text: str, stop: Sequence[str]) -> int:
    """Letters of ``text`` that stay whatever follows: the rest is an unfinished letter, or may begin a stop string."""
    length = len(text.rstrip(UNFINISHED))
    beginnings = {word[:size] for word in stop for size in range(1, len(word))}
    for held in range(min(length, max(map(len, beginnings), default=0)), 0, -1):
        if text[length - held : length] in beginnings:
            return length - held
    return length
