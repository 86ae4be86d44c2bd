"""Answers end where they should, and what is heard of them on the way is never taken back."""

from collections.abc import Sequence

import pytest

from megatron_nmm.generate.contract import Answer, Decoding
from megatron_nmm.generate.growing import UNFINISHED, Growing, settled

EOS = 0


def _bytes(tokens: Sequence[int]) -> str:
    """A tokenizer of bytes."""
    return bytes(tokens).decode("utf-8", errors="replace")


def _grown(text: str, decoding: Decoding, *, eos: bool = True) -> tuple[Answer, list[str]]:
    heard: list[str] = []
    growing = Growing(_bytes, EOS, decoding, heard.append)
    for token in [*text.encode(), *([EOS] if eos else [])]:
        growing.add(token)
    return growing.answer(), heard


@pytest.mark.parametrize(
    ("text", "decoding", "answer", "ended", "heard"),
    [
        ("seven", Decoding(), "seven", "eos", ["s", "e", "v", "e", "n"]),
        ("seven", Decoding(new_tokens=3), "sev", "length", ["s", "e", "v"]),
        ("", Decoding(), "", "eos", []),
        # "en" begins at the fourth letter; the first e, which might have begun it, is held until the v.
        ("seven", Decoding(stop=("en",)), "sev", "stop", ["s", "ev"]),
        ("a.b", Decoding(stop=("b", ".")), "a", "stop", ["a"]),
        # The beginning of a stop string that does not come is told at the end.
        ("a\nb\n", Decoding(stop=("\n\n",)), "a\nb\n", "eos", ["a", "\nb", "\n"]),
        # Two bytes are one letter, told when both are there.
        ("aé", Decoding(), "aé", "eos", ["a", "é"]),
        ("é", Decoding(new_tokens=1), UNFINISHED, "length", [UNFINISHED]),
    ],
)
def test_an_answer_grows(text: str, decoding: Decoding, answer: str, ended: str, heard: list[str]) -> None:
    found, pieces = _grown(text, decoding)
    assert (found.text, found.ended, pieces) == (answer, ended, heard)


def test_tokens_of_an_answer_hold_those_of_the_stop_string_and_nothing_later() -> None:
    found, _ = _grown("abc", Decoding(stop=("b",)))
    assert bytes(found.tokens) == b"ab"


def test_an_unfinished_answer_is_no_answer() -> None:
    with pytest.raises(AssertionError, match="still grows"):
        _grown("a", Decoding(), eos=False)


@pytest.mark.parametrize(
    ("text", "stop", "kept"),
    [
        ("abc", (), 3),
        ("abc", ("cd",), 2),
        ("abc", ("bcd", "cd"), 1),
        ("abc", ("c",), 3),
        (f"ab{UNFINISHED}{UNFINISHED}", (), 2),
        (f"ab{UNFINISHED}", ("bx",), 1),
        ("", ("ab",), 0),
    ],
)
def test_what_may_still_change_is_held_back(text: str, stop: tuple[str, ...], kept: int) -> None:
    assert settled(text, stop) == kept
