"""What is asked of a model that answers, whatever it was loaded from: a training checkpoint or an export."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from megatron_nmm.config.fault import config_error
from megatron_nmm.data.prompt import Prompt

Ended = Literal["eos", "stop", "length"]
"""Why an answer is over: the end of sequence, one of the stop strings, or as many tokens as were asked for."""
Listener = Callable[[int, str], None]
"""Is told (number of the prompt, text that its answer grew by) while answers are made."""


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen and when an answer is over."""

    new_tokens: int = 64
    """Tokens of an answer at most."""
    temperature: float = 0.0
    """Divides the scores before tokens are drawn; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together reach this probability."""
    stop: tuple[str, ...] = ()
    """An answer is over where one of these begins, and does not contain it."""
    seed: int = 0
    """Of the draws. A token's draw depends on the seed, the number of its prompt and its place in the answer alone."""

    def __post_init__(self) -> None:
        faults = []
        if self.new_tokens < 1:
            faults.append(f"new_tokens {self.new_tokens} makes no answer; use 1 or more")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            faults.append(f"temperature {self.temperature} is not usable; use 0 for the likeliest token, or up to 2")
        if not 0 < self.top_p <= 1:
            faults.append(f"top_p {self.top_p} is no probability above 0; use 1 to draw among all tokens")
        if "" in self.stop:
            faults.append("a stop string is empty and would end every answer at once; leave it out")
        if faults:
            raise config_error("decoding", faults)


@dataclass(frozen=True)
class Answer:
    """What a model put behind a prompt."""

    text: str
    tokens: tuple[int, ...]
    """Its token ids, those of a stop string included and the end of sequence left out."""
    ended: Ended


@dataclass(frozen=True)
class Likelihood:
    """How likely a continuation was to a model."""

    nats: float
    """Minus the logarithm of its probability, summed over its tokens."""
    tokens: int
    greedy: bool
    """Whether each of its tokens was the likeliest one."""


class AnsweringModel(Protocol):
    """A model in memory. Every method is collective where there are several processes, and all get its result."""

    def answers(self, prompts: Sequence[Prompt], decoding: Decoding, listen: Listener | None = None) -> list[Answer]:
        """The answer to each prompt; DataError names a prompt or image that cannot be used.

        ``listen`` hears of answers as they grow, on the process that makes them.
        """

    def likelihoods(self, pairs: Sequence[tuple[Prompt, str]], *, end: bool = False) -> list[Likelihood]:
        """Of each continuation behind its prompt, joined as they are, and with ``end`` of the end of sequence too."""
